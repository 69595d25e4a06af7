"""Transport problems to test and to time solvers with: DeepEMD's own kind, and the degenerate ones."""

from collections.abc import Callable

import torch
from torch import Tensor

from fewshot_cli import build, transport
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.recipe import default_part

Problems = tuple[Tensor, Tensor, Tensor]  # cost [B,n,m], supply [B,n], demand [B,m]


class _Witness(Solver):
    """Keeps the problems a head poses instead of solving them."""

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        self.problems = (cost, supply, demand)
        count = torch.zeros(len(cost), dtype=torch.int64)
        return Plan(torch.zeros_like(cost), None, None, count, count == 0)


def posed(support: Tensor, query: Tensor) -> Problems:
    """What the emd head asks a solver: support [E,way,shot,d,h,w], query [E,q,d,h,w] → B = E·q·way problems."""
    head = build.head(default_part("heads", "emd"), support.shape[3], default_part("solvers", "network_simplex"))
    head.solver = _Witness()
    with torch.no_grad(), transport.ledger():
        head(support, query)
    return head.solver.problems


def generated(n: int, m: int, batch: int = 375, seed: int = 0) -> Problems:
    """DeepEMD's problems on invented features: 640-channel ReLU maps with class structure, 5-way 1-shot, 75 queries."""
    rng = torch.Generator().manual_seed(seed)
    common, classes = torch.randn(1, 640, 1, 1, generator=rng), torch.randn(5, 640, 1, 1, generator=rng)

    def maps(per_class: int, positions: int) -> Tensor:
        own = torch.randn(5, per_class, 640, 1, positions, generator=rng)
        return (own + 0.5 * classes[:, None] + common).relu()

    parts, have = [], 0
    while have < batch:
        queries = min(15, -(-(batch - have) // 25))
        parts.append(posed(maps(1, m)[None], maps(queries, n).flatten(0, 1)[None]))
        have += 25 * queries
    return tuple(torch.cat(x)[:batch] for x in zip(*parts, strict=True))


def from_features(features: Tensor, labels: Tensor, n: int, m: int, batch: int = 375, seed: int = 0) -> Problems:
    """DeepEMD's problems on real features [N,d,h,w] with labels [N]: 5-way episodes, n query and m class nodes.

    A side's nodes are the first positions of as many pictures of a class as that takes.
    """
    rng = torch.Generator().manual_seed(seed)
    flat = features.cpu().float().flatten(2)
    known = labels.unique()
    way = min(5, len(known))

    def side(chosen: Tensor, sets: int, nodes: int) -> Tensor:
        """[way·sets, d, 1, nodes]"""
        rows, pictures = [], -(-nodes // flat.shape[2])
        for c in chosen.tolist():
            own = torch.nonzero(labels == c).flatten()
            for _ in range(sets):
                pick = own[torch.randint(len(own), (pictures,), generator=rng)]
                rows.append(flat[pick].transpose(0, 1).reshape(flat.shape[1], 1, -1)[..., :nodes])
        return torch.stack(rows)

    parts, have = [], 0
    while have < batch:
        chosen = known[torch.randperm(len(known), generator=rng)[:way]]
        queries = min(15, -(-(batch - have) // way**2))
        parts.append(posed(side(chosen, 1, m).unflatten(0, (1, way, 1)), side(chosen, queries, n)[None]))
        have += queries * way * way
    return tuple(torch.cat(x)[:batch] for x in zip(*parts, strict=True))


def _same_sides(cost: Tensor, supply: Tensor, demand: Tensor, n: int, m: int) -> Problems:
    """Where n = m, both sides are one set of points: symmetric costs, zero diagonal, equal masses."""
    if n != m:
        return cost, supply, demand
    return (cost + cost.mT) * (1 - torch.eye(n, dtype=cost.dtype)), supply, supply.clone()


def _duplicated(cost: Tensor, supply: Tensor, demand: Tensor, n: int, m: int) -> Problems:
    cost = cost.clone()
    cost[:, n // 2 :] = cost[:, : n - n // 2].clone()
    cost[:, :, m // 2 :] = cost[:, :, : m - m // 2].clone()
    return cost, supply.mul(3).ceil(), demand.mul(3).ceil()


def _only(x: Tensor, keep: slice, rest: float) -> Tensor:
    """x with all but `keep` set to `rest`."""
    out = torch.full_like(x, rest)
    out[:, keep] = x[:, keep]
    return out


FAMILIES: dict[str, Callable[[Tensor, Tensor, Tensor, int, int], Problems]] = {
    "random": lambda c, s, d, n, m: (c, s, d),
    "uniform weights": lambda c, s, d, n, m: (c, torch.ones_like(s), torch.ones_like(d)),
    "small integers": lambda c, s, d, n, m: ((3 * c).ceil(), (3 * s).ceil(), (3 * d).ceil()),
    "equal multisets": lambda c, s, d, n, m: (
        c,
        torch.arange(1.0, n + 1, dtype=c.dtype).expand_as(s),
        torch.arange(m, 0.0, -1, dtype=c.dtype).expand_as(d),
    ),
    "duplicated rows and columns": _duplicated,
    "coarse grid": lambda c, s, d, n, m: ((3 * c).round(), s, d),
    "zero or one": lambda c, s, d, n, m: ((c > 1).to(c), s, d),
    "all equal": lambda c, s, d, n, m: (torch.ones_like(c), s, d),
    "all zero": lambda c, s, d, n, m: (torch.zeros_like(c), s, d),
    "negative": lambda c, s, d, n, m: (c - 3, s, d),
    "nine decades": lambda c, s, d, n, m: (10 ** (-4.5 * c), s, d),
    "weights at the floor": lambda c, s, d, n, m: (c, _only(s, slice(0, 1), 1e-5), d),
    "exact zeros": lambda c, s, d, n, m: (c, s * (torch.arange(n) % 2 == 0), d * (torch.arange(m) % 3 == 0)),
    "one node has all": lambda c, s, d, n, m: (c, _only(s, slice(0, 1), 0.0), _only(d, slice(m - 1, m), 0.0)),
    "masses over eight decades": lambda c, s, d, n, m: (c, 10 ** (-8 * s), 10 ** (-8 * d)),
    "sides identical": _same_sides,
}
SHAPES = [(1, 1), (1, 5), (4, 1), (7, 7), (16, 16), (25, 4), (3, 40), (40, 3), (40, 30)]


def family(name: str, n: int, m: int, batch: int, seed: int = 0) -> Problems:
    """Problems of one family of `FAMILIES`, float64; both sides weigh max(n, m)."""
    rng = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(batch, n, m, generator=rng, dtype=torch.float64)
    supply = torch.rand(batch, n, generator=rng, dtype=torch.float64) + 1e-3
    demand = torch.rand(batch, m, generator=rng, dtype=torch.float64) + 1e-3
    cost, supply, demand = FAMILIES[name](cost, supply, demand, n, m)
    return cost, *(x * (max(n, m) / x.sum(1, keepdim=True)) for x in (supply, demand))
