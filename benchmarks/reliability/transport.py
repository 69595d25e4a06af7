"""Degenerate transport problems through every solver, each answer checked apart from the solver and its certificate.

    python benchmarks/reliability/transport.py [--tries 20000]

A fault: a solver says `converged`, and its flow has other marginals than it should, or, where it calls itself exact,
can be made cheaper along the cycles of its residual graph, followed in extended precision; an exception; or the default
solver without convergence. Prints JSON.
"""

import numpy as np
import torch
from world import options, report

from fewshot_cli import registry, transport
from fewshot_cli.errors import FslError
from fewshot_cli.testing.families import FAMILIES, family

SIZES = [(1, 1), (1, 5), (4, 1), (3, 3), (7, 7), (5, 9), (12, 4), (16, 16)]
CALL = 20  # problems in one call
RANGES = {
    "offset": lambda c: 1e6 + 1e-6 * c,
    "forbidden": lambda c: torch.where(c > 1.4, 1e9, c),
    "huge": lambda c: 1e30 * c,
}


def improvement(cost: np.ndarray, flow: np.ndarray) -> float:
    """How much cheaper the same marginals can be shipped: negative cycles of the residual graph are cancelled, one
    after the other, until Bellman and Ford find none (Klein 1967).
    """
    n, nodes = len(cost), sum(cost.shape)
    wide, left, saved = cost.astype(np.longdouble), flow.astype(np.longdouble), np.longdouble(0)
    nothing, rounding = left.sum() * np.longdouble(1e-17), np.abs(wide).max() * np.longdouble(2e-18)
    while True:
        arcs = np.full((nodes, nodes), np.inf, np.longdouble)
        arcs[:n, n:], arcs[n:, :n] = wide, np.where(left > nothing, -wide, np.inf).T
        cycle = negative_cycle(arcs, rounding)
        push = min((left[b, a - n] for a, b in cycle if a >= n), default=np.longdouble(0))
        gain = -sum(arcs[a, b] for a, b in cycle)
        if gain <= 0:
            return float(saved)
        for a, b in cycle:
            if a < n:
                left[a, b - n] += push
            else:
                left[b, a - n] -= push
        saved += gain * push


def negative_cycle(arcs: np.ndarray, rounding: float) -> list[tuple[int, int]]:
    """The arcs of a cycle of negative cost, beyond rounding; none where there is none."""
    nodes = len(arcs)
    reached, before = np.zeros(nodes, np.longdouble), np.full(nodes, -1)
    for _ in range(nodes + 1):
        through = reached[:, None] + arcs
        better = through.min(0) < reached - rounding
        if not better.any():
            return []
        reached, before = np.where(better, through.min(0), reached), np.where(better, through.argmin(0), before)
    at = int(np.flatnonzero(better)[0])
    for _ in range(nodes):
        at = int(before[at])
    cycle = [at]
    while (previous := int(before[cycle[-1]])) != at:
        cycle.append(previous)
    cycle.reverse()
    return list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))


def mattering(cost: np.ndarray, flow: np.ndarray, least: float) -> float:
    """What a tolerance is relative to: the largest cost, but where a plan pays a thousandth of that on average, the
    largest that it pays, or that half of the rows have a second arc for.
    """
    size = np.abs(cost)
    top, paid = float(size.max()), float((flow * size).sum() / flow.sum())
    if paid >= 1e-3 * top:
        return top
    second = np.sort(np.sort(size, 1)[:, min(1, size.shape[1] - 1)])
    return max(float(np.where(flow > least, size, 0).max()), float(second[(len(second) + 1) // 2 - 1]))


def wrong(name: str, solver, given: tuple[torch.Tensor, ...]) -> list[str]:
    try:
        transport.check(*given)
        plan = transport.solve(solver, *given)
    except FslError as error:
        return [] if name == "uniform" else [f"refused: {error}"]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    out = []
    near = solver.tolerance or transport.EXACT
    for b in np.flatnonzero(plan.converged.numpy()):
        cost, supply, demand = (x[b].numpy() for x in given)
        flow, mass = plan.flow[b].numpy().astype(np.longdouble), float(supply.sum())
        uneven = max(np.abs(flow.sum(1) - supply).max(), np.abs(flow.sum(0) - demand).max())
        if uneven > 2 * near.marginal * mass + 1e-12 * mass:
            out.append(f"problem {b}: marginals are off by {uneven:.3g} of {mass:.3g}")
        gap = improvement(cost, plan.flow[b].numpy()) if solver.exact else 0.0
        if gap > 2 * near.value * mass * mattering(cost, flow, near.value * mass / sum(cost.shape)):
            out.append(f"problem {b}: {gap:.3g} above the optimum, and converged")
    if name == "network_simplex" and not plan.converged.all():
        out.append("the default solver did not converge")
    return out


def main() -> None:
    given = options(__doc__, 20000)
    faults, solved, counts = [], 0, {}
    solvers = {name: registry.solver(name)() for name in registry.working_solvers()}
    cases = [(kind, change) for kind in FAMILIES for change in (None, *RANGES)]
    number = 0
    while solved < given.tries:
        (kind, change), (n, m) = cases[number % len(cases)], SIZES[(number // len(cases)) % len(SIZES)]
        cost, supply, demand = family(kind, n, m, CALL, given.seed * 100_000 + number)
        problems = (RANGES[change](cost) if change else cost, supply, demand)
        for name, solver in solvers.items():
            found = wrong(name, solver, problems)
            counts[name] = counts.get(name, 0) + len(found)
            faults += [{"solver": name, "family": kind, "range": change, "size": [n, m], "fault": f} for f in found]
        solved, number = solved + CALL, number + 1
    report("transport problems", {"tries": solved, "kinds": list(counts), "faults": faults})


if __name__ == "__main__":
    main()
