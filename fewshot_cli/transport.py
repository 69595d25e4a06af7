"""Pose a transport problem, have a solver solve it, differentiate the value, whatever the solver.

The value of min <C,X>, X1 = s, Xᵀ1 = d, X ≥ 0 is a linear program's optimum. By the envelope theorem its gradient is
the plan itself for the cost and the optimal dual prices for supply and demand (DeepEMD differentiates the same value
through the KKT conditions, CVPR 2020, eq. 5-8). Prices are unique only up to a constant moved from one side to the
other; they are shifted so that both sides have the same mean, which no admissible change of the masses can see.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from fewshot_cli.contracts import EXACT, Plan, Solver, WarmStarts
from fewshot_cli.errors import DataError
from fewshot_cli.kernels import gradient, nvrtc, proof
from fewshot_cli.kernels.certificate import certify
from fewshot_cli.kernels.facts import facts_of, worst
from fewshot_cli.runtime.console import say

USUAL_TOTALS = (1e-3, 1e4)  # masses that every solver takes as they are
HALF = (torch.float16, torch.bfloat16)
NEGATIVE = "a transport problem has negative supply or demand; node weights must be zero or more"
TOTALS_TOLERANCE = 1e-4  # relative difference of total supply and total demand that float32 rounding can leave


@dataclass
class Ledger:
    """What happened in the transport problems solved while it was open.

    `converged` and `iterations` hold one [B] tensor per call, `episodes` the batch's episodes it was for (None:
    all); `seconds` is wall-clock inside solvers.
    """

    converged: list[Tensor] = field(default_factory=list)
    iterations: list[Tensor] = field(default_factory=list)
    episodes: list[slice | None] = field(default_factory=list)
    seconds: float = 0.0

    def posed(self, count: int) -> list[int]:
        """Problems posed by each of a batch's `count` episodes, which lie one after the other in a call."""
        out = torch.zeros(count, dtype=torch.int64)
        for flags, part in zip(self.converged, self.episodes, strict=True):
            counts = out[part or slice(None)]  # a view
            counts += flags.numel() // len(counts)
        return out.tolist()

    def failures(self, count: int) -> list[int]:
        """Problems not converged in each of a batch's `count` episodes, which lie one after the other in a call."""
        out = torch.zeros(count, dtype=torch.int64)
        for flags, part in zip(self.converged, self.episodes, strict=True):
            counts = out[part or slice(None)]  # a view
            counts += (~flags).reshape(len(counts), -1).sum(1).cpu()
        return out.tolist()


@dataclass
class Basis:
    """Starting points for problems that are solved repeatedly: `trees` [B,n+m] of their last solve, None at first.

    The caller owns it and gives it to `value`, which replaces the trees. A solver without warm starts leaves it empty.
    """

    trees: Tensor | None = None


@dataclass
class Pending:
    """What was checked of problems on a GPU without waiting for it: the worst of all since the last look."""

    worst: Tensor | None = None  # facts [6], and of the products that must fit into a batch's type their share of it

    def add(self, facts: Tensor, cost: Tensor) -> None:
        """Note a batch's facts, as `proof.facts` gives them."""
        heaviest = (facts[3] + facts[5].abs()).clamp(min=1)
        share = 4 * sum(cost.shape[1:]) / torch.finfo(cost.dtype).max * facts[1] * heaviest
        facts = torch.cat([facts, share[None]])
        self.worst = facts if self.worst is None else torch.maximum(self.worst, facts)

    def look(self) -> None:
        """Wait for the GPU. Raises `DataError` when a problem since the last look was invalid."""
        if self.worst is None:
            return
        *numbers, share = self.worst.tolist()
        facts, self.worst = worst(numbers), None
        if not facts.finite:
            raise DataError(
                "a transport problem has a NaN or infinite cost or mass; check the weights and the features they give"
            )
        if facts.least < 0:
            raise DataError(NEGATIVE)
        if not share <= 1:
            raise DataError(
                f"transport problems have costs up to {facts.largest:.3g} and total masses up to {facts.heaviest:.3g}, "
                "whose products do not fit into their type; scale them down"
            )
        if facts.excess > 0:
            raise DataError("total supply of a transport problem differs from its total demand; give both one mass")


_PENDING: ContextVar[Pending | None] = ContextVar("pending", default=None)
_LEDGERS: ContextVar[tuple[Ledger, ...]] = ContextVar("ledgers", default=())
_EPISODES: ContextVar[slice | None] = ContextVar("episodes", default=None)
_TOLD: set[type] = set()


@contextmanager
def ledger() -> Iterator[Ledger]:
    """Record every solve inside the block."""
    record = Ledger()
    token = _LEDGERS.set((*_LEDGERS.get(), record))
    try:
        yield record
    finally:
        _LEDGERS.reset(token)


@contextmanager
def checked_later() -> Iterator[Pending]:
    """Problems on a GPU inside the block are checked without waiting for it, and refused at the next `look` of what
    this gives; the end of the block is one.
    """
    pending = Pending()
    token = _PENDING.set(pending)
    try:
        yield pending
        pending.look()
    finally:
        _PENDING.reset(token)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Solves inside the block are recorded in no ledger, since they repeat others."""
    token = _LEDGERS.set(())
    try:
        yield
    finally:
        _LEDGERS.reset(token)


@contextmanager
def episodes(begin: int, end: int) -> Iterator[None]:
    """Solves inside the block are for the episodes begin … end−1 of a batch, which the ledgers note."""
    token = _EPISODES.set(slice(begin, end))
    try:
        yield
    finally:
        _EPISODES.reset(token)


def value(solver: Solver, cost: Tensor, supply: Tensor, demand: Tensor, basis: Basis | None = None) -> Tensor:
    """Optimal value [B] of each problem, differentiable in cost [B,n,m], supply [B,n] and demand [B,m].

    All three are brought to the widest of their dtypes: half precision is solved, and valued, in float32, whole numbers
    in float64. Without a node on one side, or without mass, the value is zero. `basis` holds the trees of the last
    solve of the same B problems, slightly changed, and receives the new ones.

    Raises `DataError` for NaN, infinities, negative mass, unequal totals, complex numbers, and numbers so large that
    the value or a price would not be finite. A solver without prices gives no gradient to supply and demand (OpenCV's,
    for one); a note on stderr says so once.
    """
    cost, supply, demand = alike(cost, supply, demand)
    _check_shapes(cost, supply, demand)
    if cost.numel() == 0:
        check(cost, supply, demand)
        return cost.sum((1, 2)) + 0 * (supply.sum(1) + demand.sum(1))  # zeros, with their zero gradients
    if solver.gradient == "autograd":
        check(cost, supply, demand)
        return (cost * solve(solver, cost, supply, demand).flow).sum((1, 2))
    if torch.is_grad_enabled() and any(x.requires_grad for x in (cost, supply, demand)):
        return _Envelope.apply(cost, supply, demand, solver, basis)[0]
    cost, plan = _solved(cost, supply, demand, solver, basis)
    return worth(cost, plan)


def solve(
    solver: Solver,
    cost: Tensor,
    supply: Tensor,
    demand: Tensor,
    basis: Basis | None = None,
    usual: bool | None = None,
) -> Plan:
    """The solver's plan for checked problems, noted in every open ledger; a certified solver's with its proof.

    `usual` is what `check` returned, looked for where it is None.
    """
    start = perf_counter()
    if usual is None:
        usual = _are_usual(supply)
    if not usual:  # solvers have absolute tolerances: they see masses of about one
        supply, demand, unit = _in_units(supply, demand, supply.detach().sum(1))
    if basis is None or basis.trees is None or not solver.warm_start:
        plan = solver.solve(cost, supply, demand)
    else:
        plan = cast(WarmStarts, solver).solve(cost, supply, demand, basis=basis.trees)
    if basis is not None:
        basis.trees = plan.basis
    if solver.certified:
        plan = certify(cost, supply, demand, plan, solver.tolerance or EXACT, _workers(solver))
    if not usual:
        value = None if plan.value is None else plan.value * unit
        plan = replace(plan, flow=plan.flow * unit[:, None, None], value=value)
    spent = perf_counter() - start
    for record in _LEDGERS.get():
        record.converged.append(plan.converged)
        record.iterations.append(plan.iterations)
        record.episodes.append(_EPISODES.get())
        record.seconds += spent
    return plan


def check(cost: Tensor, supply: Tensor, demand: Tensor, workers: int = 0) -> bool:
    """Refuse an invalid problem with a one-sentence error. Returns whether all masses are known to be of a usual size.

    `workers`: threads on the CPU, 0 for every core. Raises `DataError`; wrong shapes raise `ValueError`.
    """
    _check_shapes(cost, supply, demand)
    if cost.numel() == 0:
        _check_totals(supply, demand)
        return True
    pending = _PENDING.get()
    if pending is not None and cost.device.type == "cuda" and nvrtc.works():
        pending.add(proof.facts(cost.detach(), supply.detach(), demand.detach(), TOTALS_TOLERANCE), cost)
        return False
    facts = facts_of(cost, supply, demand, TOTALS_TOLERANCE, workers)
    if not facts.finite:
        _refuse_infinite(cost, supply, demand)
    if facts.least < 0:
        raise DataError(NEGATIVE)
    heaviest = max(1.0, facts.heaviest + abs(facts.excess)) if math.isfinite(facts.excess) else math.inf
    if not 4 * sum(cost.shape[1:]) * facts.largest * heaviest <= torch.finfo(cost.dtype).max:
        raise DataError(
            f"transport problems have costs up to {facts.largest:.3g} and total masses up to {heaviest:.3g}, whose "
            f"products do not fit into {str(cost.dtype).removeprefix('torch.')}; scale them down"
        )
    if facts.excess > 0:
        _check_totals(supply, demand)
    return _usual(facts.lightest, facts.heaviest)


def _are_usual(supply: Tensor) -> bool:
    """Whether all masses are known to be of a usual size; those on a GPU that is not to be waited for are not."""
    if not supply.numel():
        return True
    if supply.device.type == "cuda" and _PENDING.get() is not None:
        return False
    return _usual(*torch.aminmax(supply.detach().sum(1)))


def _usual(lightest: float | Tensor, heaviest: float | Tensor) -> bool:
    return bool(lightest > USUAL_TOTALS[0]) and bool(heaviest < USUAL_TOTALS[1])


def _check_totals(supply: Tensor, demand: Tensor) -> None:
    total, other = supply.detach().double().sum(1), demand.detach().double().sum(1)
    unequal = (total - other).abs() > TOTALS_TOLERANCE * torch.maximum(total, other)
    if unequal.any():
        i = int(unequal.nonzero()[0])
        raise DataError(
            f"transport problem {i}: total supply {total[i]:.6g} differs from total demand {other[i]:.6g}; "
            "normalise both sides to the same mass"
        )


def _refuse_infinite(cost: Tensor, supply: Tensor, demand: Tensor) -> None:
    """Say which problem has a number that is not finite; totals may be infinite without any."""
    for name, x in (("cost", cost), ("supply", supply), ("demand", demand)):
        bad = (~torch.isfinite(x)).flatten(1).any(1)
        if bad.any():
            raise DataError(
                f"transport problem {int(bad.nonzero()[0])}: NaN or infinite {name}; "
                "check the weights and the features they give"
            )


def _check_shapes(cost: Tensor, supply: Tensor, demand: Tensor) -> None:
    batch, n, m = cost.shape if cost.ndim == 3 else (-1, -1, -1)
    if supply.shape != (batch, n) or demand.shape != (batch, m):
        raise ValueError(
            f"cost {tuple(cost.shape)} does not go with supply {tuple(supply.shape)}, demand {tuple(demand.shape)}"
        )


def worth(cost: Tensor, plan: Plan) -> Tensor:
    """What a plan's flow costs [B], on the cost's device, wherever the plan is."""
    return (cost * plan.flow.to(cost.device)).sum((1, 2)) if plan.value is None else plan.value.to(cost.device)


def _workers(solver: Solver) -> int:
    """Threads that a solver may take, 0 for every core."""
    return int(getattr(solver.options, "workers", 0))


def alike(*given: Tensor) -> list[Tensor]:
    """The tensors in one floating dtype that every solver takes. Raises `DataError` for complex numbers."""
    if all(x.dtype == torch.float32 for x in given) or all(x.dtype == torch.float64 for x in given):
        return list(given)
    if any(x.is_complex() for x in given):
        raise DataError("a transport problem has complex numbers; give the cost as real distances")
    # no solver takes half precision, and prices need more than its digits
    narrow = all(x.dtype in (torch.float32, *HALF) for x in given)
    cost, supply, demand = (x.to(torch.float32 if narrow else torch.float64) for x in given)
    coarse = [torch.finfo(x.dtype).eps for x in given[1:] if x.dtype in HALF]
    if coarse:  # masses of one total differ by what their type cannot write
        ratio = supply.detach().sum(1) / demand.detach().sum(1)
        demand = demand * torch.where((ratio - 1).abs() <= 2 * max(coarse), ratio, 1.0)[:, None]
    return [cost, supply, demand]


def _in_units(supply: Tensor, demand: Tensor, totals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masses in units [B] that make their totals one to two; the unit is a power of two, so that nothing is rounded.

    Without mass the unit is zero and the masses are equal: the prices of any optimum are right then.
    """
    massless = totals == 0
    unit = torch.where(massless, 0, torch.exp2(torch.floor(torch.log2(totals))))
    massless, divisor = massless[:, None], torch.where(massless, 1, unit)[:, None]
    return (
        torch.where(massless, 1 / supply.shape[1], supply / divisor),
        torch.where(massless, 1 / demand.shape[1], demand / divisor),
        unit,
    )


def double_backward() -> RuntimeError:
    """The error of a second derivative: the plan is constant in the cost almost everywhere, but not in the masses."""
    return RuntimeError(
        "the optimal value of a transport problem is differentiable once: its plan and prices, which are the first "
        "derivatives, carry no gradient; leave out create_graph"
    )


def _solved(cost: Tensor, supply: Tensor, demand: Tensor, solver: Solver, basis: Basis | None) -> tuple[Tensor, Plan]:
    """The costs as they lie in memory best, copied once for all that read them, and the plan of unchecked problems."""
    cost = cost.contiguous()
    usual = check(cost, supply, demand, _workers(solver))
    return cost, solve(solver, cost, supply, demand, basis, usual)


class _Envelope(torch.autograd.Function):
    """value = <C, X*>; d/dC = X*, d/ds = supply prices, d/dd = demand prices. Returns the value, flow and prices.

    It is given `ctx` at once: PyTorch looks at the signature of a `forward` without it in every call, which takes
    longer than the backward pass of small batches.
    """

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, supply: Tensor, demand: Tensor, solver: Solver, basis: Basis | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        cost, plan = _solved(cost, supply, demand, solver, basis)
        prices = [x for x in (plan.supply_price, plan.demand_price) if x is not None]
        ctx.solver, ctx.workers = type(solver), _workers(solver)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(plan.flow, *prices)  # differentiable outputs, to refuse their derivatives
        return worth(cost, plan), plan.flow, plan.supply_price, plan.demand_price

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        flow, *prices = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if not prices and (needed[1] or needed[2]) and ctx.solver not in _TOLD:
            _TOLD.add(ctx.solver)
            say(
                f"note: solver {ctx.solver.__name__} returns no dual prices, so node weights get no gradient; "
                "--solver network_simplex gives the full one"
            )
        u, v = prices or (None, None)
        if not torch.is_grad_enabled():
            return (*gradient.of_plans(needed, grad, flow, u, v, ctx.workers), None, None)
        return (*_Gradient.apply(needed, grad, flow, u, v), None, None)


class _Gradient(torch.autograd.Function):
    """The gradient where a graph of them is made, which ends here: flow and prices belong to it as outputs."""

    @staticmethod
    def forward(
        ctx: Any,
        needed: Sequence[bool],
        grad: Tensor,
        flow: Tensor,
        supply_price: Tensor | None,
        demand_price: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        return gradient.of_plans(needed, grad, flow, supply_price, demand_price)

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> NoReturn:
        raise double_backward()
