"""Transport problems to test and to time solvers with: DeepEMD's own kind, and the degenerate ones."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot_cli import registry
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_head, default_solver
from fewshot_cli.config.schema import PartSpec
from fewshot_cli.contracts import Poses


class Problems(NamedTuple):
    """A batch of transport problems: cost [B,n,m], supply [B,n], demand [B,m]."""

    cost: Tensor
    supply: Tensor
    demand: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Problems":
        """The same change made to all three."""
        return Problems(change(self.cost), change(self.supply), change(self.demand))

    @classmethod
    def joined(cls, batches: Iterable["Problems"], most: int) -> "Problems":
        """The first problems, at most so many, of several batches."""
        cost, supply, demand = (torch.cat(parts)[:most] for parts in zip(*batches, strict=True))
        return cls(cost, supply, demand)


@cache
def _posing() -> PartSpec:
    """The head whose problems these are: the first that poses some."""
    return default_part("heads", registry.able("heads", Poses)[0])


@torch.no_grad()
def posed(support: Tensor, query: Tensor) -> Problems:
    """What a matching head asks a solver: support [E,way,shot,d,h,w], query [E,q,d,h,w] → B = E·q·way problems."""
    head = build_head(_posing(), support.shape[3], default_solver())
    assert isinstance(head, Poses)
    return Problems(*head.pose(support, query))


def generated(n: int, m: int, batch: int = 375, seed: int = 0) -> Problems:
    """DeepEMD's problems on invented features: 640-channel ReLU maps with class structure, 5-way 1-shot, 75 queries."""
    rng = torch.Generator().manual_seed(seed)
    common, classes = torch.randn(1, 640, 1, 1, generator=rng), torch.randn(5, 640, 1, 1, generator=rng)

    def maps(per_class: int, positions: int) -> Tensor:
        noise = torch.randn(5, per_class, 640, 1, positions, generator=rng)
        return (noise + 0.5 * classes[:, None] + common).relu()

    parts, have = [], 0
    while have < batch:
        queries = min(15, -(-(batch - have) // 25))
        parts.append(posed(maps(1, m)[None], maps(queries, n).flatten(0, 1)[None]))
        have += 25 * queries
    return Problems.joined(parts, batch)


def from_features(features: Tensor, labels: Tensor, n: int, m: int, batch: int = 375, seed: int = 0) -> Problems:
    """DeepEMD's problems on real features [N,d,h,w] with labels [N]: 5-way episodes, n query and m class nodes.

    A side's nodes are the first positions of as many images of a class as that takes.
    """
    rng = torch.Generator().manual_seed(seed)
    flat = features.cpu().float().flatten(2)
    known = labels.unique()
    way = min(5, len(known))

    def side(chosen: Tensor, sets: int, nodes: int) -> Tensor:
        """[way·sets, d, 1, nodes]"""
        rows, images = [], -(-nodes // flat.shape[2])
        for c in chosen.tolist():
            members = torch.nonzero(labels == c).flatten()
            for _ in range(sets):
                pick = members[torch.randint(len(members), (images,), generator=rng)]
                rows.append(flat[pick].transpose(0, 1).reshape(flat.shape[1], 1, -1)[..., :nodes])
        return torch.stack(rows)

    parts, have = [], 0
    while have < batch:
        chosen = known[torch.randperm(len(known), generator=rng)[:way]]
        queries = min(15, -(-(batch - have) // way**2))
        parts.append(posed(side(chosen, 1, m).unflatten(0, (1, way, 1)), side(chosen, queries, n)[None]))
        have += queries * way * way
    return Problems.joined(parts, batch)
