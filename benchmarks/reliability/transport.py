"""Degenerate transport problems through every solver, each answer checked apart from the solver and its certificate.

    python benchmarks/reliability/transport.py [--tries 20000]

A fault: a solver that calls itself exact says `converged`, and its flow has other marginals than it should, or its
value is above a lower bound that prices of HiGHS prove in extended precision; an exception; or the default solver
without convergence. Prints JSON.
"""

import numpy as np
import torch
from scipy.optimize import linprog
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


def bound(cost: np.ndarray, supply: np.ndarray, demand: np.ndarray) -> float:
    """A lower bound on the optimum by weak duality: prices of HiGHS on scaled costs, repaired in extended precision."""
    n, m = cost.shape
    scale = float(np.abs(cost).max()) or 1.0
    rows = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    solved = linprog((cost / scale).ravel(), A_eq=rows, b_eq=np.concatenate([supply, demand]), method="highs-ds")
    u = np.zeros(n) if solved.x is None else solved.eqlin.marginals[:n] * scale
    best = -np.inf
    for start in (u, np.zeros(n)):
        wide = cost.astype(np.longdouble)
        v = (wide - start.astype(np.longdouble)[:, None]).min(0)
        fitted = (wide - v).min(1)
        best = max(best, float(fitted @ supply + v @ demand))
    return best


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
        gap = float((flow * cost).sum()) - bound(cost, supply, demand)
        if solver.exact and gap > 2 * (near.value + near.marginal + 1e-12) * mass * float(np.abs(cost).max()):
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
