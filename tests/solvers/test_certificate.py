"""`converged` of a certified solver is a proof: a bound on the optimum from its costs, flow and prices."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from fewshot_cli import registry, transport
from fewshot_cli.contracts import EXACT, Plan
from fewshot_cli.kernels import certificate
from fewshot_cli.kernels.certificate import Given, by_tensors, certify, on_cpu
from fewshot_cli.testing.families import FAMILIES, SHAPES, family

SOLVE = registry.solver("network_simplex")()


def optimum(cost, supply, demand):
    """By linear programming."""
    n, m = cost.shape
    ships = torch.cat([torch.eye(n).repeat_interleave(m, 1), torch.eye(m).repeat(1, n)])
    masses = torch.cat([supply, demand * supply.sum() / demand.sum()])
    return linprog(cost.flatten().numpy(), A_eq=ships.numpy(), b_eq=masses.numpy()).fun


def spread(problems):
    """The plan that ships from each node to all in proportion, which is feasible and hardly ever optimal."""
    _, supply, demand = problems
    return supply[:, :, None] * demand[:, None] / demand.sum(1)[:, None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("priced", [True, False])
@pytest.mark.parametrize("judge", [on_cpu, by_tensors])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_optimal_plan_is_proved_with_its_prices_or_without(name, judge, priced, dtype):
    for n, m in SHAPES:
        given = family(name, n, m, 3).map(lambda x: x.to(dtype))
        plan = SOLVE.solve(*given)
        gap, fine, value = judge(Given(*given, plan.flow), plan.supply_price if priced else None, EXACT)
        assert torch.allclose(value, (given.cost * plan.flow).sum((1, 2))) and value.dtype == given.cost.dtype
        assert fine.all() and gap.abs().max() < 1e-6, (n, m, gap)


@pytest.mark.parametrize("judge", [on_cpu, by_tensors])
@pytest.mark.parametrize("n", [5, 16, 33])
def test_the_gap_of_any_plan_with_optimal_prices_is_its_distance_from_the_optimum(judge, n):
    given = family("random", n, 17, 4)
    flow = spread(given)
    gap, fine, _ = judge(Given(*given, flow), SOLVE.solve(*given).supply_price, EXACT)
    for b in range(4):
        cost, supply, demand = (x[b] for x in given)
        best = optimum(cost, supply, demand)
        apart = float((cost * flow[b]).sum() - best) / float(supply.sum() * cost.abs().max())
        assert apart > 0.01 and gap[b] == pytest.approx(apart, abs=1e-9)
    assert not fine.any()


@pytest.mark.parametrize("judge", [on_cpu, by_tensors])
def test_whatever_is_wrong_with_a_plan_ends_its_proof(judge):
    given = family("random", 9, 12, 6)
    plan = SOLVE.solve(*given)
    flow, prices = plan.flow.clone(), plan.supply_price.clone()
    flow[0] = spread(given)[0]  # dear
    flow[1, 0, 0] += 1e-3  # more than its marginals
    flow[2] *= 0.999  # less than them
    flow[3, 2, 3] = torch.nan
    row, column = flow[4].nonzero()[0].tolist()
    flow[4, row, column] = -flow[4, row, column]
    for known in (prices, None):
        assert judge(Given(*given, flow), known, EXACT)[1].tolist() == [False] * 5 + [True]
    prices[5, 0] += 1
    assert not judge(Given(*given, plan.flow), prices, EXACT)[1][5]


@pytest.mark.parametrize("judge", [on_cpu, by_tensors])
def test_a_problem_without_mass_is_optimal(judge):
    given = [torch.ones(2, 3, 4), torch.zeros(2, 3), torch.zeros(2, 4)]
    gap, fine, value = judge(Given(*given, torch.zeros(2, 3, 4)), torch.zeros(2, 3), EXACT)
    assert fine.all() and (gap == 0).all() and (value == 0).all()


class Careless(registry.solver("network_simplex")):
    """Says that it has converged, and has not."""

    def solve(self, cost, supply, demand, basis=None):
        plan = super().solve(cost, supply, demand)
        flow = plan.flow.clone()
        flow[1] = spread((cost, supply, demand))[1]
        return Plan(flow, None, None, plan.iterations, torch.ones(len(cost), dtype=torch.bool))


def test_transport_counts_what_is_not_proved_as_not_converged():
    given = family("random", 9, 9, 3)
    with transport.ledger() as ledger:
        plan = transport.solve(Careless(), *given)
    assert plan.converged.tolist() == [True, False, True] and ledger.failures(3) == [0, 1, 0]
    assert plan.certified_gap[1] > 0.01 > 1e-9 > plan.certified_gap[0]


def test_without_numba_plans_are_judged_all_the_same(monkeypatch):
    given = family("random", 6, 6, 2)
    plan = SOLVE.solve(*given)
    monkeypatch.setitem(sys.modules, "fewshot_cli.kernels.bounds", None)
    assert certify(*given, plan, EXACT).converged.all()
    assert not certify(*given, replace(plan, flow=spread(given)), EXACT).converged.any()


def test_a_failure_that_a_solver_reports_stays_one_whatever_the_bound():
    given = family("random", 6, 6, 2)
    plan = SOLVE.solve(*given)
    failed = replace(plan, converged=torch.tensor([True, False]))
    assert certify(*given, failed, EXACT).converged.tolist() == [True, False]


def test_opencv_does_not_pass_off_where_its_simplex_stopped_as_the_optimum():
    given = family("random", 300, 300, 2)
    solver, exact = registry.solver("opencv")(), transport.solve(SOLVE, *given)
    if solver.unavailable_reason() is not None:
        pytest.skip("no cv2.EMD here")
    assert exact.converged.all()
    best, plan = (given.cost * exact.flow).sum((1, 2)), transport.solve(solver, *given)
    near = (given.cost * plan.flow).sum((1, 2)) <= best * (1 + 1e-4)
    assert torch.equal(plan.converged & ~near, torch.zeros(2, dtype=torch.bool))
    assert not plan.converged.all(), "this OpenCV solves them; take larger ones"


def test_qpth_with_a_strength_of_its_own_is_not_held_to_the_optimum():
    cls = registry.solver("qpth")
    assert cls().certified and not cls(cls.Options(strength=1.0)).certified


@pytest.mark.parametrize("forbidden", [1e3, 1e6, 1e9, 1e13])
@pytest.mark.parametrize("compiled", [True, False])
def test_arcs_that_are_forbidden_by_their_cost_do_not_hide_a_wrong_plan(forbidden, compiled, monkeypatch):
    """The reference are linear programs without these arcs; the diagonal is always allowed."""
    if not compiled:
        monkeypatch.setattr(certificate, "on_cpu", certificate.by_tensors)
    rng = np.random.default_rng(4)
    cost, closed = rng.random((40, 12, 12)), rng.random((40, 12, 12)) < 0.3
    closed[:, range(12), range(12)] = False
    ships = np.concatenate([np.kron(np.eye(12), np.ones(12)), np.kron(np.ones(12), np.eye(12))])
    best = np.array(
        [
            linprog(c[~x], A_eq=ships[:, ~x.ravel()], b_eq=np.full(24, 1 / 12)).fun
            for c, x in zip(cost, closed, strict=True)
        ]
    )
    equal = torch.full((40, 12), 1 / 12, dtype=torch.float64)
    problems = (torch.from_numpy(np.where(closed, forbidden, cost)), equal, equal)
    wrong = 0
    for name in ("network_simplex", "highs", "opencv"):
        plan = transport.solve(registry.solver(name)(), *problems)
        values = (problems[0] * plan.flow).sum((1, 2)).numpy()
        good = np.abs(values - best) < 1e-4
        assert not plan.converged.numpy()[~good].any(), name
        assert (good & plan.converged.numpy()).all() or name != "network_simplex"
        wrong += (~good).sum()
    assert wrong or forbidden < 1e6
