"""The contract every solver keeps: `fsl doctor --check solver:NAME` and the tests run these checks.

A check returns None when the solver passes, or a reason for which it does not apply; it raises `Failed` with one
sentence. All problems are float64, where not said otherwise. A solver may refuse what it is not made for with a
`DataError`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from fewshot_cli import registry
from fewshot_cli.contracts import EXACT, Tolerance, WarmStarts
from fewshot_cli.errors import DataError
from fewshot_cli.profiling.problems import Problems
from fewshot_cli.testing.case import ORACLE_NOISE, Case, Failed, case, oracle, require, solved
from fewshot_cli.testing.families import FAMILIES, SHAPES, family

NEARLY_EXACT = 1e-3  # of the value, relative to mass · largest |cost|

__all__ = ["CHECKS", "EXACT", "Case", "Failed", "Tolerance", "case"]


WIDE = ("nine decades",)  # families whose cheap arcs a solver's tolerance, relative to the dear ones, does not reach


def optimal(case: Case) -> str | None:
    """Plans are feasible and as cheap as the reference's, in every family and shape."""
    answered = 0
    for name in FAMILIES:
        for n, m in SHAPES:
            given = family(name, n, m, 2)
            plan = solved(case, given)
            if plan is None:
                continue
            answered += 1
            where = f"family {name!r}, {n}×{m}"
            cost, supply, demand = given
            mass = supply.sum(1)
            marginal = case.tolerance.marginal * mass
            if name in WIDE and not plan.converged.all():  # said so, which is all that can be asked there
                continue
            require(plan.converged, f"{where}: reports no convergence")
            require(plan.flow.amin((1, 2)) >= -marginal, f"{where}: negative flow {float(plan.flow.min()):.2e}")
            off = torch.maximum((plan.flow.sum(2) - supply).abs().amax(1), (plan.flow.sum(1) - demand).abs().amax(1))
            require(off <= marginal, f"{where}: a marginal is off by {float(off.max()):.2e}")
            gap = ((cost * plan.flow).sum((1, 2)) - oracle(name, n, m, 2)).abs()
            near = case.near(given) + ORACLE_NOISE * mass * cost.abs().amax((1, 2))
            require(gap <= near, f"{where}: value is {float(gap.max()):.2e} from the reference's")
    return None if answered else "refuses all of these problems"


def priced(case: Case) -> str | None:
    """Prices of an exact solver are dual feasible and close the gap, in every family and shape."""
    if not case.solver.exact:
        return "is not exact"
    answered = 0
    for name in FAMILIES:
        for n, m in SHAPES:
            cost, supply, demand = given = family(name, n, m, 2)
            plan = solved(case, given)
            if plan is None or plan.supply_price is None or plan.demand_price is None:
                continue
            answered += 1
            near = case.near(given) + ORACLE_NOISE * supply.sum(1) * cost.abs().amax((1, 2))
            slack = (cost - plan.supply_price[:, :, None] - plan.demand_price[:, None]).amin((1, 2))
            require(
                slack * supply.sum(1) >= -near,
                f"family {name!r}, {n}×{m}: prices exceed a cost by {-float(slack.min()):.2e}",
            )
            dual = (plan.supply_price * supply).sum(1) + (plan.demand_price * demand).sum(1)
            gap = (dual - (cost * plan.flow).sum((1, 2))).abs()
            require(gap <= near, f"family {name!r}, {n}×{m}: duality gap {float(gap.max()):.2e}")
    return None if answered else "returns no prices"


def _samples(case: Case, *names: str) -> Iterator[tuple[str, Problems]]:
    """5 problems of 9×9 of each family that the solver answers; the default ones are random and with uniform
    weights.
    """
    for name in names or ("random", "uniform weights"):
        given = family(name, 9, 9, 5, seed=7)
        if solved(case, given) is not None:
            yield name, given


def consistent(case: Case) -> str | None:
    """Alone or in a batch, permuted, transposed, scaled, shifted: the value follows."""
    done = 0
    for name, given in _samples(case):
        done += 1
        cost, supply, demand = given
        base, near = case.value(*given), 2 * case.near(given)
        alone = torch.cat([case.value(c[None], s[None], d[None]) for c, s, d in zip(*given, strict=True)])
        same = torch.equal(base, alone) if case.tolerance.deterministic else (base - alone).abs() <= near
        require(same, f"{name}: a problem's value depends on its batch")
        order = torch.tensor([3, 1, 8, 0, 2, 7, 4, 6, 5])
        require(
            (case.value(cost[:, order], supply[:, order], demand) - base).abs() <= near,
            f"{name}: permuting rows matters",
        )
        require((case.value(cost.mT.contiguous(), demand, supply) - base).abs() <= near, f"{name}: transposing matters")
        require(
            (case.value(3 * cost, supply, demand) - 3 * base).abs() <= 6 * near,
            f"{name}: three times the cost is not three times the value",
        )
        require(
            (case.value(cost, 4 * supply, 4 * demand) - 4 * base).abs() <= 8 * near,
            f"{name}: four times the mass is not four times the value",
        )
        u, v = torch.linspace(0, 1, 9, dtype=cost.dtype), torch.linspace(1, 0.5, 9, dtype=cost.dtype)
        moved = base + (u * supply).sum(1) + (v * demand).sum(1)
        shifted = case.value(cost + u[:, None] + v, supply, demand)
        require((shifted - moved).abs() <= 4 * near, f"{name}: adding potentials to the cost shifts the value wrongly")
    return None if done else "refuses all of these problems"


def careful(case: Case) -> str | None:
    """Inputs stay untouched, any layout and an empty batch are fine, outputs have the cost's type and the right
    shapes.
    """
    for name, given in _samples(case):
        copies = [x.clone() for x in given]
        first = case.value(*given)
        require(all(torch.equal(a, b) for a, b in zip(given, copies, strict=True)), f"{name}: inputs were modified")
        cost, supply, demand = given
        strided = cost.mT.contiguous().mT
        require(
            (case.value(strided, supply, demand) - first).abs() <= case.near(given), f"{name}: layout of cost matters"
        )
        wide = supply.repeat_interleave(2, 1)[:, ::2]
        require((case.value(cost, wide, demand) - first).abs() <= case.near(given), f"{name}: layout of supply matters")
        for dtype in (torch.float32, torch.float64):
            plan = case.plan(Problems(*(x.to(dtype) for x in given)))
            require(
                plan.flow.dtype == dtype and plan.flow.shape == cost.shape, f"{name}: flow is not {dtype} like the cost"
            )
            require(
                plan.iterations.shape == plan.converged.shape == (5,), f"{name}: iterations or converged is not [B]"
            )
            value = (cost * plan.flow.double()).sum((1, 2))
            require(
                (value - first).abs() <= case.near(given) + 1e-5 * supply.sum(1), f"{name}: wrong value for {dtype}"
            )
    for n in (4, 1):
        nothing = [x.requires_grad_() for x in (torch.ones(2, n, n), torch.zeros(2, n), torch.zeros(2, n))]
        value = case.value(*nothing)
        (grad,) = torch.autograd.grad(value.sum(), nothing[0])
        require(
            (value == 0) & torch.isfinite(grad).all(), "problems without mass do not cost zero, or have no gradient"
        )
    half = [x.bfloat16() for x in family("uniform weights", 4, 4, 2)]
    require(case.value(*half).dtype == torch.float32, "half precision is not valued in float32")
    empty = [torch.zeros(0, 4, 4), torch.zeros(0, 4), torch.zeros(0, 4)]
    require(case.value(*empty).shape == (0,), "an empty batch is not answered with an empty value")
    return None


def differentiable(case: Case) -> str | None:
    """Gradients agree with finite differences: of the cost, and of the weights through their normalisation."""
    step = 1e-3 if case.tolerance.gradient >= 0.05 else 1e-5
    rng, done = torch.Generator().manual_seed(3), 0
    for name, (cost, supply, demand) in _samples(case, "random"):
        done += 1
        leaves = [x.clone().requires_grad_() for x in (cost, supply, demand)]
        scaled = [leaves[0], *(9 * x / x.sum(1, keepdim=True) for x in leaves[1:])]
        grads = torch.autograd.grad(case.value(*scaled).sum(), leaves, allow_unused=True)
        for part, grad, x in zip(("cost", "supply", "demand"), grads, leaves, strict=True):
            if grad is None:  # a solver without prices
                continue
            direction = torch.randn(x.shape, generator=rng, dtype=x.dtype) * x.detach().abs()
            moves = [direction if y is x else torch.zeros_like(y) for y in leaves]

            def value(*raw: Tensor) -> Tensor:
                return case.value(raw[0], *(9 * y / y.sum(1, keepdim=True) for y in raw[1:]))

            plain = [y.detach() for y in leaves]
            up, down = (value(*(a + sign * step * b for a, b in zip(plain, moves, strict=True))) for sign in (1, -1))
            numeric, exact = (up - down) / (2 * step), (grad * direction).flatten(1).sum(1)
            scale = (grad.abs() * direction.abs()).flatten(1).sum(1) + 1e-3
            require(
                (numeric - exact).abs() <= case.tolerance.gradient * scale,
                f"{name}: gradient of the {part} is off by {float(((numeric - exact).abs() / scale).max()):.2e}",
            )
    return None if done else "refuses these problems"


def like_autograd(case: Case) -> str | None:
    """Gradients of an exact solver equal those of one that is nearly exact and differentiated automatically."""
    if not case.solver.exact:
        return "is not exact"
    classes = [registry.solver(name) for name in registry.working_solvers()]
    near = [c for c in classes if c.gradient == "autograd" and c.tolerance and c.tolerance.value <= NEARLY_EXACT]
    if not near:
        return "no such solver is installed (pip install --no-deps qpth)"
    cls = near[0]
    given = family("random", 5, 6, 4, seed=11)
    if solved(case, given) is None:
        return "refuses these problems"
    raw = given.map(lambda x: x.clone().requires_grad_())

    def gradient(of: Case) -> list[Tensor | None]:
        supply, demand = (6 * x / x.sum(1, keepdim=True) for x in raw[1:])
        return list(torch.autograd.grad(of.value(raw.cost, supply, demand).sum(), raw, allow_unused=True))

    reference = gradient(Case(cls(), case.tolerance))
    for part, ours, theirs in zip(("cost", "supply", "demand"), gradient(case), reference, strict=True):
        if ours is not None and theirs is not None:
            off = float((ours - theirs).abs().max() / theirs.abs().max())
            require(
                off <= max(case.tolerance.gradient, 1e-5),
                f"gradient of the {part} differs from {cls.__name__}'s by {off:.2e}",
            )
    return None


def between(case: Case) -> str | None:
    """Where prices are not unique, the gradient of a weight lies between the one-sided derivatives."""
    if not case.solver.exact or case.solver.gradient != "envelope":
        return "is not exact"
    answered, step = 0, 1e-4
    for _, (cost, supply, demand) in _samples(case, "uniform weights", "small integers", "coarse grid"):
        plan = case.plan(Problems(cost, supply, demand))
        if plan.supply_price is None:
            continue
        answered += 1
        base = case.value(cost, supply, demand)
        for i, j in ((0, 1), (4, 2)):  # one more unit of supply at i, one less at j
            move = torch.zeros_like(supply)
            move[:, i], move[:, j] = step, -step
            right = (case.value(cost, supply + move, demand) - base) / step
            left = (base - case.value(cost, supply - move, demand)) / step
            price, slip = (
                plan.supply_price[:, i] - plan.supply_price[:, j],
                2 * case.near(Problems(cost, supply, demand)) / step,
            )
            require(
                (left - slip <= price) & (price <= right + slip),
                f"a price lies outside [{float(left.min()):.3g}, {float(right.max()):.3g}], the one-sided derivatives",
            )
    return None if answered else "returns no prices"


def strict(case: Case) -> str | None:
    """NaN, infinite or negative input and unequal totals are refused with a sentence."""
    spoiled = {
        "NaN or infinite cost": (0, (1, 0, 0), torch.nan),
        "NaN or infinite supply": (1, (1, 0), torch.inf),
        "negative": (2, (0, 0), -1.0),
        "differs from total demand": (1, (2, 0), 9.0),
    }
    for phrase, (which, place, wrong) in spoiled.items():
        given = [x.clone() for x in family("random", 4, 4, 3)]
        given[which][place] = wrong
        try:
            case.value(*given)
        except DataError as error:
            require(phrase in str(error), f"{phrase}: the sentence does not say so: {error}")
        else:
            raise Failed(f"{phrase}: was not refused")
    return None


def parallel(case: Case) -> str | None:
    """The number of workers changes nothing."""
    options = type(case.solver).Options
    if "workers" not in options.model_fields:
        return "has no workers"
    given = family("uniform weights", 9, 9, 70, seed=9)
    plans = [
        replace(case, solver=type(case.solver)(case.solver.options.model_copy(update={"workers": w}))).plan(given)
        for w in (1, 2, 3)
    ]
    require(all(torch.equal(plans[0].flow, plan.flow) for plan in plans[1:]), "flows depend on the number of workers")
    return None


def restartable(case: Case) -> str | None:
    """From the basis of an earlier solve, or from nonsense, the optimum is the same; from its own it takes no pivot."""
    if not case.solver.warm_start:
        return "has no warm start"
    solver = cast(WarmStarts, case.solver)
    for name in ("random", "uniform weights", "exact zeros", "coarse grid"):
        for n, m in ((9, 9), (40, 30), (3, 40)):
            cost, supply, demand = given = family(name, n, m, 4, seed=13)
            plan = case.plan(given)
            if plan.basis is None and case.device.type != "cpu":
                return f"has no warm start on {case.device.type}"
            require(plan.basis is not None, f"{name}, {n}×{m}: a plan has no basis to start from")
            assert plan.basis is not None
            there = given.map(lambda x: x.to(case.device))
            again = solver.solve(*there, basis=plan.basis.to(case.device))
            require(again.iterations == 0, f"{name}, {n}×{m}: needs pivots from its own basis")
            wave = 1 + 0.05 * torch.arange(n * m, dtype=cost.dtype).reshape(n, m).cos()
            moved = Problems(cost * wave, supply.flip(1).clone(), demand)
            best = case.value(*moved)
            for basis in (
                plan.basis,
                plan.basis.roll(1, 0),
                torch.full_like(plan.basis, -2),
                torch.full_like(plan.basis, -1),
                plan.basis.flip(1),
            ):
                flow = solver.solve(*moved.map(lambda x: x.to(case.device)), basis=basis.to(case.device)).flow
                reached = (moved.cost * flow.cpu()).sum((1, 2))
                require(
                    (reached - best).abs() <= 2 * case.near(moved),
                    f"{name}, {n}×{m}: a warm start changes the value",
                )
    return None


CHECKS: dict[str, Callable[[Case], str | None]] = {
    check.__name__: check
    for check in (
        optimal,
        priced,
        consistent,
        careful,
        differentiable,
        like_autograd,
        between,
        strict,
        parallel,
        restartable,
    )
}
