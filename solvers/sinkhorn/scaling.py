"""Sinkhorn's iterations as the Multi-Proxy Wasserstein classifier runs them (AAAI 2021, Algorithm 1): the kernel itself
is scaled, and they stop when the scaling hardly changes.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewshot_cli.kernels.threads import over_batch

DIRECT = 80.0  # largest cost over ε whose kernel, and its products, single precision holds
LOOK = 8  # compiled iterations between two looks at the mean over the batch: those beyond the last are thrown away


def scale(
    cost: Tensor, supply: Tensor, demand: Tensor, epsilon: float, most: int, threshold: float, each: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Plans [B,n,m], iterations [B] and whether each stopped by itself [B], every iteration in the graph of the inputs.

    One iteration is α ← supply/(Kβ), β ← demand/(Kᵀα) with K = exp(−cost/ε), from α = β = 1. They stop for all together
    when the mean of |α − previous α| over all problems is below the threshold, as the paper's do; with `each`, a
    problem stops by its own mean and then stays as it is, whatever else is in the batch. Costs too large for K are kept
    as logarithms. On the CPU K's iterations are compiled, and the same bytes whatever the number of threads.
    """
    if not cost.numel():
        none = torch.zeros(len(cost), dtype=torch.int64, device=cost.device)
        return cost * 0, none, none == 0
    direct = cost.dtype not in (torch.float16, torch.bfloat16) and float(cost.detach().abs().amax()) < DIRECT * epsilon
    alike = cost.dtype in (torch.float32, torch.float64) and cost.dtype == supply.dtype == demand.dtype
    if direct and alike and all(x.device.type == "cpu" for x in (cost, supply, demand)) and _kernel() is not None:
        if torch.is_grad_enabled() and any(x.requires_grad for x in (cost, supply, demand)):
            return _Compiled.apply(cost, supply, demand, epsilon, most, threshold, each)
        plan, iterations, converged, _ = _forward(
            _Problems(cost, supply, demand, epsilon), most, threshold, each, keep=False
        )
        return plan, iterations, converged
    return _by_torch(cost, supply, demand, epsilon, most, threshold, each, direct)


def _by_torch(
    cost: Tensor, supply: Tensor, demand: Tensor, epsilon: float, most: int, threshold: float, each: bool, direct: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`scale` by PyTorch's operations: the kernel itself if `direct`, else its logarithm."""
    step = _direct(cost, supply, demand, epsilon) if direct else _logarithmic(cost, supply, demand, epsilon)
    last = torch.ones_like(supply)
    a, b = (last, torch.ones_like(demand)) if direct else (torch.zeros_like(supply), torch.zeros_like(demand))
    left = torch.ones(len(cost), dtype=torch.bool, device=cost.device)
    iterations = torch.zeros(len(cost), dtype=torch.int64, device=cost.device)
    for _ in range(most):
        next_a, next_b = step.both(b)
        if each and not bool(left.all()):
            next_a, next_b = torch.where(left[:, None], next_a, a), torch.where(left[:, None], next_b, b)
        a, b = next_a, next_b
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


@cache
def _kernel() -> Any:
    """The compiled iterations, a module; None where Numba does not import."""
    try:
        from fewshot_cli.solvers.sinkhorn import scaling_kernel
    except (ImportError, RuntimeError, OSError):
        return None
    return scaling_kernel


class _Problems:
    """A batch as the compiled loops take it, laid out as it came: contiguous, or with rows and columns exchanged."""

    def __init__(self, cost: Tensor, supply: Tensor, demand: Tensor, epsilon: float) -> None:
        (self.batch, self.n, self.m), self.dtype = cost.shape, cost.dtype
        self.transposed = cost.mT.is_contiguous()
        apart = (self.n, 1) if self.transposed else (1, self.m)
        costs, self.kind = self.flat(cost), np.dtype(str(cost.dtype).removeprefix("torch."))
        self.given = costs, *apart, self.kind.type(-epsilon), *_masses(supply), *_masses(demand)

    def flat(self, matrices: Tensor) -> np.ndarray:
        """Matrices [B,n,m] laid out as the costs are."""
        return (matrices.detach().mT if self.transposed else matrices.detach()).contiguous().numpy().ravel()

    def matrices(self, flat: np.ndarray) -> Tensor:
        """The reverse of `flat`."""
        made = torch.from_numpy(flat)
        return made.view(self.batch, self.m, self.n).mT if self.transposed else made.view(self.batch, self.n, self.m)

    def spread(self, loop: Callable, *arguments: object) -> None:
        """Run a compiled loop on parts of the batch, one for each of PyTorch's threads."""
        width = self.n + -self.n % (64 // self.kind.itemsize)

        def part(begin: int, end: int) -> None:
            shapes = (2, self.m, width), (3, width), (3, self.m)
            room = (
                self.n,
                *(torch.zeros(shape, dtype=self.dtype).numpy() for shape in shapes),
            )  # begins on a vector's bound
            loop(begin, end, self.given, *arguments, room)

        over_batch(part, self.batch, torch.get_num_threads())


def _masses(rows: Tensor) -> tuple[np.ndarray, int]:
    """Masses [B,n] flat, and how far apart problems lie: 0 where all share a row."""
    rows, apart = (rows[:1], 0) if rows.stride(0) == 0 else (rows, rows.shape[1])
    return rows.detach().contiguous().numpy().ravel(), apart


def _forward(
    problems: _Problems, most: int, threshold: float, each: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Plans, iterations, converged, and column sums [B,·,m]: with `keep` those of all iterations, else of the last
    few.
    """
    batch, m, kind = problems.batch, problems.m, problems.kind
    room, done, threshold = (min(most, LOOK) if keep else LOOK + 1), 0, kind.type(threshold)
    sums, left, iterations = np.empty((batch, room, m), kind), np.ones(batch, bool), np.zeros(batch, np.int64)
    while done < most and left.any():
        count = min(LOOK, most - done)
        if keep and done + count > room:
            room, shorter = min(most, 2 * room), sums
            sums = np.empty((batch, room, m), kind)
            sums[:, :done] = shorter
        change = np.empty((count, batch), kind)
        problems.spread(_kernel().advance, done, threshold, each, left, sums, change, iterations)
        if not each:
            small = ~(change.mean(1, dtype=np.float64).astype(kind) >= threshold)
            left[:] = not small.any()
            iterations[:] = done + (int(small.argmax()) + 1 if small.any() else count)
        done += count
    plan = np.empty(batch * problems.n * m, kind)
    problems.spread(_kernel().finish, sums, iterations, plan)
    return problems.matrices(plan), torch.from_numpy(iterations), torch.from_numpy(~left), torch.from_numpy(sums)


class _Compiled(torch.autograd.Function):
    """Plans, iterations and convergence by the compiled loops; of the iterations the column sums are kept."""

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, supply: Tensor, demand: Tensor, epsilon: float, most: int, threshold: float, each: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        problems = _Problems(cost, supply, demand, epsilon)
        plan, iterations, converged, sums = _forward(problems, most, threshold, each, keep=True)
        ctx.mark_non_differentiable(iterations, converged)
        ctx.save_for_backward(cost, supply, demand, sums, iterations)
        ctx.epsilon = epsilon
        return plan, iterations, converged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        cost, supply, demand, sums, iterations = ctx.saved_tensors
        problems, needed = _Problems(cost, supply, demand, ctx.epsilon), ctx.needs_input_grad[1:3]
        to_cost = np.empty(cost.numel(), problems.kind)
        masses = [
            torch.zeros_like(x, memory_format=torch.contiguous_format) if need else x.new_empty(0, x.shape[1])
            for x, need in zip((supply, demand), needed, strict=True)
        ]
        problems.spread(
            _kernel().reverse,
            sums.numpy(),
            iterations.numpy(),
            problems.flat(grad),
            to_cost,
            *(x.numpy() for x in masses),
        )
        return problems.matrices(to_cost), *masses, None, None, None, None
