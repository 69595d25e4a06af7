"""DeepEMD (Zhang et al., CVPR 2020): the optimal matching of local features as similarity, weights by cross-reference."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.contracts import Head, Options, Solver


class EMDOptions(Options):
    """Choices of the paper and of its public code; where they differ the default is the code's."""

    temperature: float = Field(12.5, gt=0, le=1e6, description="factor of the logits, T in T/N·Σ(1−c)x")
    norm: Literal["center", "cosine"] = Field(
        "center", description="cost from features centred over channels (code) or as they are (paper, eq. 4)"
    )
    floor: float = Field(1e-3, gt=0, le=1, description="added to every node weight (code; eq. 9 has none)")


class EMD(Head):
    """Logit = T/N · Σ(1 − c_ij) x_ij with the optimal flow x between a query's and a class's local features.

    Several shots are averaged into one support map before matching.
    """

    Options = EMDOptions
    needs_solver = True

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        return emd_logits(self.solver, nodes(query), nodes(support.mean(2)), self.options)


def nodes(maps: Tensor) -> Tensor:
    """Maps [...,d,h,w] as local features [...,h·w,d]."""
    return maps.flatten(-2).mT


def emd_logits(solver: Solver, query: Tensor, proto: Tensor, options: EMDOptions,
               basis: transport.Basis | None = None) -> Tensor:  # fmt: skip
    """Logits [E,q,way] of query nodes [E,q,n,d] against class nodes [E,way,m,d]; problems run over (E, q, way)."""
    episodes, q, n, _ = query.shape
    way, m = proto.shape[1], proto.shape[2]
    supply, demand = cross_reference(query, proto, options.floor)
    cost = pairwise_cost(query, proto, options.norm)
    best = transport.value(solver, cost.reshape(-1, n, m), supply.reshape(-1, n), demand.reshape(-1, m), basis)
    # Σ(1−c)x = mass − Σcx, and the mass of either side is n
    return options.temperature * (1 - best.reshape(episodes, q, way) / n)


def cross_reference(query: Tensor, proto: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Node weights (eq. 9, 10): max(u_i · mean of the other side, 0) + floor, scaled to a total of n on both sides.

    query [E,q,n,d], proto [E,way,m,d] → supply [E,q,way,n] and demand [E,q,way,m].
    """
    n = query.shape[2]
    supply = _products(query, proto.mean(2))
    to_query = query.mean(2) @ proto.flatten(1, 2).mT  # [E, q, way·m]
    demand = to_query.unflatten(2, proto.shape[1:3])
    return tuple(_to_total(F.relu(w) + floor, n) for w in (supply, demand))


def _to_total(weights: Tensor, total: int) -> Tensor:
    return weights * (total / weights.sum(-1, keepdim=True))


def pairwise_cost(query: Tensor, proto: Tensor, norm: str) -> Tensor:
    """1 − cosine of every query node with every class node (eq. 4), [E,q,way,n,m]; `center` first removes each node's
    mean over channels.
    """
    if norm == "center":  # with one side centred the product needs no centring of the other
        proto = proto - proto.mean(-1, keepdim=True)
        squares = (query - query.mean(-1, keepdim=True)).square().sum(-1)
    else:
        squares = query.square().sum(-1)
    cosine = _products(query, F.normalize(proto, dim=-1).flatten(1, 2)) / squares.clamp(min=1e-24).sqrt()[:, :, None]
    return (1 - cosine).unflatten(2, proto.shape[1:3]).mT


def _products(query: Tensor, rows: Tensor) -> Tensor:
    """rows [E,r,d] times every local feature of query [E,q,n,d] → [E,q,r,n].

    On a CPU a convolution with kernels of one position takes half the time of a matrix product on maps as they lie in
    memory; on a GPU it would be rounded to TF32.
    """
    maps = query.mT
    if query.device.type != "cpu" or query.shape[1] * query.shape[2] < 512:
        return torch.matmul(rows[:, None], maps)
    return torch.stack([F.conv1d(one, r[:, :, None]) for one, r in zip(maps, rows, strict=True)])


__all__ = ["EMD", "EMDOptions", "cross_reference", "emd_logits", "nodes", "pairwise_cost"]
