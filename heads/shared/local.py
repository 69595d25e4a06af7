"""What the heads on local features share: nodes with their pyramid, node weights, pairwise cosines."""

from typing import Annotated, Literal, Protocol, TypeVar

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor

from fewshot_cli.contracts import Head, Options
from fewshot_cli.errors import DataError
from fewshot_cli.heads.shared import clusters


def _once(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if twice := next((s for s in sizes if sizes.count(s) > 1), None):
        raise ValueError(f"{twice} is there twice, which would only double its nodes; write it once")
    return sizes


class LocalOptions(Options):
    """How local features are compared; where DeepEMD's paper and code differ the default is the code's."""

    temperature: float = Field(12.5, gt=0, le=1e6, description="factor of the logits, T in T/N·Σ(1−c)x")
    norm: Literal["center", "cosine"] = Field(
        "center", description="cost from features centred over channels (code) or as they are (paper, eq. 4)"
    )
    pyramid: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], AfterValidator(_once)] = Field(
        (),
        description="sizes the map is also pooled to; the paper's P(5,2,1) is [2, 1], the map itself is always there",
    )


class ReferenceOptions(LocalOptions):
    """How cross-reference weights are made."""

    floor: float = Field(1e-3, gt=0, le=1, description="added to cross-reference weights (code; eq. 9 has none)")


class WeightedOptions(ReferenceOptions):
    """How nodes are weighted (DeepEMD, CVPR 2020, Table 2)."""

    weights: Literal["cross_reference", "equal", "kmeans", "mean_shift"] = Field(
        "cross_reference", description="node weights: from the other side (eq. 9), all equal, or sizes of clusters"
    )
    clusters: int = Field(5, ge=1, le=1000, description="clusters of an image under weights=kmeans")
    cluster_nodes: Literal["centroids", "positions"] = Field(
        "centroids", description="under kmeans and mean_shift: nodes are the clusters, or still the positions"
    )


class Weighing(Protocol):
    """What node weights need to know of a head's options."""

    @property
    def weights(self) -> str:
        """One of `WeightedOptions.weights`."""

    @property
    def floor(self) -> float:
        """See `ReferenceOptions`."""


class Posing(Weighing, Protocol):
    """What else a transport problem needs to know of a head's options."""

    @property
    def norm(self) -> str:
        """See `LocalOptions`."""

    @property
    def pyramid(self) -> tuple[int, ...]:
        """See `LocalOptions`."""

    @property
    def temperature(self) -> float:
        """See `LocalOptions`."""

    @property
    def gradient(self) -> str:
        """`full` or `flow`."""


LocalT = TypeVar("LocalT", bound=LocalOptions)


class LocalHead(Head[LocalT]):
    """A head on pairs of local features, whose number grows with the options' pyramid."""

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of an episode's matrices over pairs of nodes."""
        count = positions + sum(size * size for size in self.options.pyramid)
        return way * way * query * count * count


def nodes(maps: Tensor, pyramid: tuple[int, ...] = ()) -> Tensor:
    """Local features [...,N,d] of maps [...,d,h,w]: those pooled to each size of the pyramid, then the h·w of the map.

    Raises `DataError` for a size that is not smaller than the map, which would only duplicate its nodes, and for a
    pyramid of patches.
    """
    parts = []
    for size in pyramid:
        h, w = maps.shape[-2:]
        if h == 1 and w > 1:
            raise DataError(
                f"head.pyramid: the features are {w} patches of an image, which are no map to pool; leave "
                "head.pyramid out, or take extractor fcn (a pyramid of patches is extractor.sizes of grid)"
            )
        if size >= min(h, w):
            raise DataError(
                f"head.pyramid: {size} is not smaller than the {h}×{w} map, which is always among the nodes and "
                f"would only be doubled; leave {size} out (the paper's P(5,2,1) is [2, 1])"
            )
        parts.append(F.adaptive_avg_pool2d(maps.flatten(0, -4), size).flatten(2).unflatten(0, maps.shape[:-3]))
    positions = maps.flatten(-2)
    return (torch.cat([*parts, positions], -1) if parts else positions).mT


def cells(size: tuple[int, int], pyramid: tuple[int, ...] = ()) -> Tensor:
    """Where the nodes of a map of a size (h, w) lie, in the order of `nodes`: boxes [N,4] (left, top, width, height) as
    shares of the map.
    """
    levels = []
    for rows, columns in (*((side, side) for side in pyramid), size):
        y, x = torch.meshgrid(torch.arange(rows) / rows, torch.arange(columns) / columns, indexing="ij")
        cell = torch.stack([x, y, torch.full_like(x, 1 / columns), torch.full_like(y, 1 / rows)], -1)
        levels.append(cell.flatten(0, 1))
    return torch.cat(levels)


def weigh(query: Tensor, proto: Tensor, options: Weighing) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nodes and weights of every pair: query [E,q,n,d], proto [E,way,m,d] → query and proto nodes of the same shapes,
    supply [E,q,way,n] and demand [E,q,way,m], both with total n.

    Under `kmeans` and `mean_shift` a node weighs what its cluster holds (section 3.4). With `cluster_nodes=centroids` a
    node moves to its cluster's mean and keeps weight one, which poses the same problem as one node a cluster.
    """
    (episodes, q, n, _), (way, m) = query.shape, proto.shape[1:3]
    if options.weights == "cross_reference":
        return query, proto, *cross_reference(query, proto, options.floor)
    supply, demand = query.new_ones(episodes, q, n), proto.new_ones(episodes, way, m)
    if isinstance(options, WeightedOptions) and options.weights != "equal":
        count = options.clusters if options.weights == "kmeans" else None
        query, supply = clusters.quantise(query, normal(query, options.norm), count, options.cluster_nodes)
        proto, demand = clusters.quantise(proto, normal(proto, options.norm), count, options.cluster_nodes)
    supply, demand = to_total(supply, n)[:, :, None], to_total(demand, n)[:, None]
    return query, proto, supply.expand(-1, -1, way, -1), demand.expand(-1, q, -1, -1)


def cross_reference(query: Tensor, proto: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Node weights (eq. 9, 10): max(u_i · mean of the other side, 0) + floor, scaled to a total of n on both sides.

    query [E,q,n,d], proto [E,way,m,d] → supply [E,q,way,n] and demand [E,q,way,m].
    """
    n = query.shape[2]
    supply = products(query, proto.mean(2)).mT
    to_query = query.mean(2) @ proto.flatten(1, 2).mT  # [E, q, way·m]
    demand = to_query.unflatten(2, proto.shape[1:3])
    return to_total(F.relu(supply) + floor, n), to_total(F.relu(demand) + floor, n)


def to_total(weights: Tensor, total: int) -> Tensor:
    """Weights scaled to a total along the last dimension."""
    return weights * (total / weights.sum(-1, keepdim=True))


def normal(features: Tensor, norm: str) -> Tensor:
    """Features [...,d] of length one, centred over channels first under `center`."""
    if norm == "center":
        features = features - features.mean(-1, keepdim=True)
    return F.normalize(features, dim=-1, eps=1e-12)


def cosines(query: Tensor, proto: Tensor, norm: str) -> Tensor:
    """Cosine of every query node with every class node, query [E,q,n,d], proto [E,way,m,d] → [E,q,way,n,m].

    `center` first removes each node's mean over channels.
    """
    centred = query - query.mean(-1, keepdim=True) if norm == "center" else query
    squares = centred.square().sum(-1)  # the product needs no centring of the query, since the other side is centred
    # a feature without direction, zero or the same in every channel, is like nothing
    nowhere = squares.detach() <= 1e-10 * torch.linalg.vector_norm(query.detach(), dim=-1).square()
    length = squares.masked_fill(nowhere, 1.0).sqrt().masked_fill(nowhere, torch.inf)  # no root of zero has a slope
    cosine = products(query, normal(proto, norm).flatten(1, 2)) / length[..., None]
    return cosine.unflatten(3, proto.shape[1:3]).transpose(2, 3)


def products(query: Tensor, rows: Tensor) -> Tensor:
    """Every local feature of query [E,q,n,d] times rows [E,r,d] → [E,q,n,r]: one matrix product an episode."""
    return torch.matmul(query.flatten(1, 2), rows.mT).unflatten(1, query.shape[1:3])


def distances(similar: Tensor) -> Tensor:
    """1 − similar, contiguous: without a gradient in one pass over it, and not in two."""
    if similar.requires_grad:
        return (1 - similar).contiguous()
    return torch.sub(similar.new_ones(()), similar, out=similar.new_empty(similar.shape))
