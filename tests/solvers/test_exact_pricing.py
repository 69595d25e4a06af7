"""The network simplex is exact on the caller's own costs, even where its integers see no difference between them.

Its pivots compare integers of 2^-38 of a power of two above the largest cost. The costs here differ by less, so that
all plans look alike to them; only the prices in float64 at the end tell which one is optimal.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog

from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_solver

UNIT = 2.0**-37  # what the integers count in, for costs from 1 to 2
STEP, LEVELS = UNIT / 32, 16  # fifteen steps are less than half a unit, and far more than float64 rounds off


def solve(levels, supply, demand, common=1.0):
    """Flow and prices of one problem with cost common + STEP · levels [n,m], and that cost."""
    cost = common + STEP * levels
    # float64 holds the costs exactly, and rounded to units nothing is left of the levels
    assert np.array_equal((cost - common) / STEP, levels) and 1 <= cost.max() < 2
    assert np.array_equal(np.rint(cost / UNIT) * UNIT, np.broadcast_to(common, levels.shape))
    problem = (torch.from_numpy(x)[None] for x in (cost, supply, demand))
    plan = build_solver(default_part("solvers", "network_simplex")).solve(*problem)
    assert bool(plan.converged)
    return *(x[0].numpy() for x in (plan.flow, plan.supply_price, plan.demand_price)), cost


def is_optimal(flow, supply_price, demand_price, cost, supply, demand):
    """Check a plan by its prices; with these costs and whole masses float64 rounds nothing."""
    assert np.array_equal(flow.sum(1), supply) and np.array_equal(flow.sum(0), demand) and flow.min() >= 0
    reduced = cost - supply_price[:, None] - demand_price
    assert reduced.min() == 0.0, "the prices are not dual feasible"
    assert reduced[flow > 0].max() == 0.0, "the flow and the prices do not belong together"


@pytest.mark.parametrize("size", [2, 5, 12, 40])
def test_an_assignment_is_optimal_in_the_last_digits(size):
    levels = np.random.default_rng(size).integers(0, LEVELS, (size, size)).astype(float)
    ones = np.ones(size)
    flow, *prices, cost = solve(levels, ones, ones)
    assert (levels * flow).sum() == levels[linear_sum_assignment(levels)].sum()
    is_optimal(flow, *prices, cost, ones, ones)


def masses(rng, count, total):
    """Whole masses [count] of at least one, with a total."""
    return 1.0 + rng.multinomial(total - count, np.full(count, 1 / count))


def least(levels, supply, demand):
    """The least cost in levels, by linear programming; whole masses make it whole."""
    n, m = levels.shape
    ships = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return round(linprog(levels.ravel(), A_eq=ships, b_eq=np.concatenate([supply, demand])).fun)


@pytest.mark.parametrize(("n", "m"), [(4, 9), (9, 4), (20, 23)])
@pytest.mark.parametrize("varied", [False, True], ids=["one cost", "a cost for each row and column"])
def test_a_plan_of_uneven_masses_is_optimal_in_the_last_digits(n, m, varied):
    rng = np.random.default_rng(n)
    levels = rng.integers(0, LEVELS, (n, m)).astype(float)
    supply, demand = masses(rng, n, 100), masses(rng, m, 100)
    # what a row or a column costs more, every plan pays alike
    common = 1.0 + (rng.integers(0, 32, (n, 1)) + rng.integers(0, 32, m)) / 64 if varied else 1.0
    flow, *prices, cost = solve(levels, supply, demand, common)
    assert (levels * flow).sum() == least(levels, supply, demand)
    is_optimal(flow, *prices, cost, supply, demand)
