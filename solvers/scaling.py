"""Sinkhorn's iterations as the Multi-Proxy Wasserstein classifier runs them (AAAI 2021, Algorithm 1): the kernel itself is
scaled, and they stop when the scaling hardly changes.
"""

import torch
from torch import Tensor

DIRECT = 80.0  # largest cost over ε whose kernel, and its products, single precision holds


def scale(cost: Tensor, supply: Tensor, demand: Tensor, epsilon: float, most: int, threshold: float,
          each: bool) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Plans [B,n,m], iterations [B] and whether each stopped by itself [B], every iteration in the graph of the inputs.

    One iteration is α ← supply/(Kβ), β ← demand/(Kᵀα) with K = exp(−cost/ε), from α = β = 1. They stop for all together when
    the mean of |α − previous α| over all problems is below the threshold, as the paper's do; with `each`, a problem stops by its own
    mean and then stays as it is, whatever else is in the batch. Costs too large for K are kept as logarithms.
    """
    if not cost.numel():
        none = torch.zeros(len(cost), dtype=torch.int64, device=cost.device)
        return cost * 0, none, none == 0
    direct = cost.dtype not in (torch.float16, torch.bfloat16) and float(cost.detach().abs().amax()) < DIRECT * epsilon
    step = _direct(cost, supply, demand, epsilon) if direct else _logarithmic(cost, supply, demand, epsilon)
    last = torch.ones_like(supply)
    a, b = (last, torch.ones_like(demand)) if direct else (torch.zeros_like(supply), torch.zeros_like(demand))
    left = torch.ones(len(cost), dtype=torch.bool, device=cost.device)
    iterations = torch.zeros(len(cost), dtype=torch.int64, device=cost.device)
    for _ in range(most):
        fresh = step.both(b)
        if each and not bool(left.all()):
            fresh = tuple(torch.where(left[:, None], new, old) for new, old in zip(fresh, (a, b), strict=True))
        a, b = fresh
        iterations += left
        now = a.detach() if direct else a.detach().exp()
        change = (now - last).abs().mean(1)
        left = left & (change >= threshold) if each else left & (change.mean() >= threshold)
        last = now
        if not left.any():
            break
    return step.plan(a, b), iterations, ~left


class _direct:
    """Scalings of the kernel."""

    def __init__(self, cost: Tensor, supply: Tensor, demand: Tensor, epsilon: float) -> None:
        self.kernel, self.supply, self.demand = (-cost / epsilon).exp(), supply, demand

    def both(self, b: Tensor) -> tuple[Tensor, Tensor]:
        a = self.supply / (self.kernel * b[:, None]).sum(2)
        return a, self.demand / (self.kernel * a[:, :, None]).sum(1)

    def plan(self, a: Tensor, b: Tensor) -> Tensor:
        return self.kernel * a[:, :, None] * b[:, None]


class _logarithmic:
    """The same in logarithms."""

    def __init__(self, cost: Tensor, supply: Tensor, demand: Tensor, epsilon: float) -> None:
        self.kernel, self.supply, self.demand = -cost / epsilon, supply.log(), demand.log()

    def both(self, b: Tensor) -> tuple[Tensor, Tensor]:
        a = self.supply - (self.kernel + b[:, None]).logsumexp(2)
        return a, self.demand - (self.kernel + a[:, :, None]).logsumexp(1)

    def plan(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.kernel + a[:, :, None] + b[:, None]).exp()
