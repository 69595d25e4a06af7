"""Families of transport problems to test solvers with, most of them degenerate."""

from collections.abc import Callable

import torch
from torch import Tensor

from fewshot_cli.profiling.problems import Problems

Sides = tuple[Tensor, Tensor, Tensor]  # cost, supply and demand, before both sides weigh the same


def _same_sides(cost: Tensor, supply: Tensor, demand: Tensor, n: int, m: int) -> Sides:
    """Where n = m, both sides are one set of points: symmetric costs, zero diagonal, equal masses."""
    if n != m:
        return cost, supply, demand
    return (cost + cost.mT) * (1 - torch.eye(n, dtype=cost.dtype)), supply, supply.clone()


def _duplicated(cost: Tensor, supply: Tensor, demand: Tensor, n: int, m: int) -> Sides:
    cost = cost.clone()
    cost[:, n // 2 :] = cost[:, : n - n // 2].clone()
    cost[:, :, m // 2 :] = cost[:, :, : m - m // 2].clone()
    return cost, supply.mul(3).ceil(), demand.mul(3).ceil()


def _only(x: Tensor, keep: slice, rest: float) -> Tensor:
    """x with all but `keep` set to `rest`."""
    out = torch.full_like(x, rest)
    out[:, keep] = x[:, keep]
    return out


FAMILIES: dict[str, Callable[[Tensor, Tensor, Tensor, int, int], Sides]] = {
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
    supply, demand = (x * (max(n, m) / x.sum(1, keepdim=True)) for x in (supply, demand))
    return Problems(cost, supply, demand)
