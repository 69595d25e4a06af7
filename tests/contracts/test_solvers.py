"""Every installed solver against SciPy's HiGHS and the properties a transport plan must have."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from fewshot_cli import registry, transport
from fewshot_cli.errors import DataError

SOLVERS = sorted(registry.entries("solvers"))
# value, marginal: relative to the total mass; cv2.EMD works in float32
TOLERANCE = {"highs": (1e-8, 1e-8), "network_simplex": (1e-11, 1e-11), "opencv": (2e-5, 1e-4), "pot": (1e-10, 1e-10)}


@pytest.fixture(params=SOLVERS)
def solver(request):
    cls = registry.part("solvers", request.param)
    if (reason := cls.works()) is not None:
        pytest.skip(reason)
    built = cls()
    built.value_tolerance, built.marginal_tolerance = TOLERANCE[request.param]
    return built


def problems(seed: int, batch: int, n: int, m: int, family: str = "random"):
    rng = torch.Generator().manual_seed(seed)
    cost = torch.rand(batch, n, m, generator=rng, dtype=torch.float64) * 2
    supply = torch.rand(batch, n, generator=rng, dtype=torch.float64) + 1e-3
    demand = torch.rand(batch, m, generator=rng, dtype=torch.float64) + 1e-3
    if family == "uniform":
        supply, demand = torch.ones_like(supply), torch.ones_like(demand)
    elif family == "grid":
        cost = (cost * 3).round()
    elif family == "floor":
        supply[:, 1:] = 1e-5
    elif family == "equal":
        cost = torch.ones_like(cost)
    elif family == "negative":
        cost = cost - 3
    elif family == "decades":
        cost = 10 ** (-4.5 * cost)
    elif family == "zeros":
        supply[:, 1::2], demand[:, 1::3] = 0, 0
    elif family == "one":
        supply[:, 1:], demand[:, :-1] = 0, 0
    elif family == "spread":
        supply, demand = 10 ** (-8 * supply), 10 ** (-8 * demand)
    elif family == "duplicated":
        cost[:, n // 2 :], cost[:, :, m // 2 :] = cost[:, : n - n // 2].clone(), cost[:, :, : m - m // 2].clone()
        supply, demand = (x.mul(3).ceil() for x in (supply, demand))
    total = float(max(n, m))
    return cost, supply * (total / supply.sum(1, keepdim=True)), demand * (total / demand.sum(1, keepdim=True))


def highs(cost, supply, demand) -> float:
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    s, d = supply.numpy(), demand.numpy()
    result = linprog(
        cost.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([s, d * s.sum() / d.sum()])
    )
    assert result.status == 0, result.message
    return result.fun


@pytest.mark.parametrize("family", ["random", "uniform", "grid", "floor", "equal", "negative", "decades",
                                    "zeros", "one", "spread", "duplicated"])  # fmt: skip
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (4, 1), (7, 7), (16, 16), (25, 4), (3, 40)])
def test_plan_is_feasible_and_its_value_is_highs_optimum(solver, n, m, family):
    cost, supply, demand = problems(3, 4, n, m, family)
    plan = transport.solve(solver, cost, supply, demand)
    assert plan.converged.all()
    total = supply.sum(1)
    assert (plan.flow >= 0).all()
    assert ((plan.flow.sum(2) - supply).abs().amax(1) <= solver.marginal_tolerance * total).all()
    assert ((plan.flow.sum(1) - demand).abs().amax(1) <= solver.marginal_tolerance * total).all()
    got = (cost * plan.flow).sum((1, 2))
    best = torch.tensor([highs(c, s, d) for c, s, d in zip(cost, supply, demand, strict=True)], dtype=torch.float64)
    near = max(solver.value_tolerance, 1e-8 if family in ("decades", "spread") else 0)  # HiGHS stops at 1e-7 itself
    assert ((got - best).abs() <= near * total * cost.abs().amax()).all()


def test_prices_are_dual_feasible_and_close_the_gap(solver):
    cost, supply, demand = problems(5, 6, 9, 13)
    plan = transport.solve(solver, cost, supply, demand)
    if plan.supply_price is None:
        pytest.skip("returns no prices")
    assert (plan.flow > 0).sum((1, 2)).max() <= 9 + 13 - 1
    slack = cost - plan.supply_price[:, :, None] - plan.demand_price[:, None, :]
    assert slack.min() > -1e-9
    dual = (plan.supply_price * supply).sum(1) + (plan.demand_price * demand).sum(1)
    assert torch.allclose(dual, (cost * plan.flow).sum((1, 2)), rtol=1e-10)


def test_one_by_one_permuted_scaled_and_transposed_give_the_same_value(solver):
    cost, supply, demand = problems(7, 5, 8, 11)

    def value(c, s, d):
        return transport.value(solver, c, s, d)

    base, near = value(cost, supply, demand), solver.value_tolerance * 11
    alone = torch.cat([value(c[None], s[None], d[None]) for c, s, d in zip(cost, supply, demand, strict=True)])
    assert torch.equal(base, alone)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(value(cost[:, order], supply[:, order], demand), base, atol=near)
    assert torch.allclose(value(cost.mT.contiguous(), demand, supply), base, atol=near)
    assert torch.allclose(value(3 * cost, supply, demand), 3 * base, atol=3 * near)
    assert torch.allclose(value(cost + 0.5, supply, demand), base + 0.5 * supply.sum(1), atol=2 * near)


def test_inputs_stay_untouched_and_odd_layouts_are_fine(solver):
    cost, supply, demand = problems(8, 3, 6, 6)
    copies = [x.clone() for x in (cost, supply, demand)]
    first = transport.value(solver, cost, supply, demand)
    assert all(torch.equal(a, b) for a, b in zip((cost, supply, demand), copies, strict=True))
    strided = cost.mT.contiguous().mT
    assert not strided.is_contiguous()
    assert torch.allclose(transport.value(solver, strided, supply, demand), first, rtol=1e-12)
    assert transport.value(solver, cost[:0], supply[:0], demand[:0]).shape == (0,)
    wide = transport.value(solver, cost.float(), supply.float(), demand.float())
    assert wide.dtype == torch.float32
    assert torch.allclose(wide.double(), first, atol=1e-4)


def test_worker_count_changes_nothing(solver):
    if "workers" not in type(solver).Options.model_fields:
        pytest.skip("has no workers")
    cost, supply, demand = problems(9, 70, 9, 9)
    plans = [type(solver)(type(solver).Options(workers=w)).solve(cost, supply, demand) for w in (1, 2, 3)]
    assert all(torch.equal(plans[0].flow, plan.flow) for plan in plans[1:])


def test_cost_gradient_is_the_flow_and_matches_finite_differences(solver):
    cost, supply, demand = problems(11, 2, 5, 6)
    cost.requires_grad_()
    (grad,) = torch.autograd.grad(transport.value(solver, cost, supply, demand).sum(), cost)
    step = 1e-3
    for index in [(0, 0, 0), (0, 3, 2), (1, 4, 5), (1, 2, 2)]:
        up, down = cost.detach().clone(), cost.detach().clone()
        up[index] += step
        down[index] -= step
        slope = (transport.value(solver, up, supply, demand) - transport.value(solver, down, supply, demand)).sum() / (
            2 * step
        )
        assert abs(slope - grad[index]) < 5e-3


def test_weight_gradient_through_the_normalisation_matches_finite_differences(solver):
    cost, supply, demand = problems(12, 2, 5, 6)
    if transport.solve(solver, cost, supply, demand).supply_price is None:
        pytest.skip("returns no prices, so weights have no gradient")
    raw_s, raw_d = supply.clone().requires_grad_(), demand.clone().requires_grad_()

    def score(s, d):
        return transport.value(solver, cost, 6 * s / s.sum(1, keepdim=True), 6 * d / d.sum(1, keepdim=True)).sum()

    assert torch.autograd.gradcheck(score, (raw_s, raw_d), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(("spoil", "phrase"), [
    (lambda c, s, d: c.__setitem__((1, 0, 0), float("nan")), "NaN or infinite cost"),
    (lambda c, s, d: s.__setitem__((1, 0), float("inf")), "NaN or infinite supply"),
    (lambda c, s, d: d.__setitem__((0, 0), -1.0), "negative"),
    (lambda c, s, d: s.__setitem__((2, 0), 9.0), "differs from total demand"),
])  # fmt: skip
def test_what_is_no_transport_problem_is_refused(solver, spoil, phrase):
    cost, supply, demand = problems(13, 3, 4, 4)
    spoil(cost, supply, demand)
    with pytest.raises(DataError, match=phrase):
        transport.value(solver, cost, supply, demand)


def test_opencv_leaves_weights_without_gradient_and_says_so_once(capsys):
    transport._TOLD.clear()
    opencv = registry.part("solvers", "opencv")()
    cost, supply, demand = problems(14, 2, 4, 4)
    supply.requires_grad_()
    cost.requires_grad_()
    for _ in range(2):
        assert torch.autograd.grad(transport.value(opencv, cost, supply, demand).sum(), supply, allow_unused=True) == (
            None,
        )
    assert capsys.readouterr().err.count("no dual prices") == 1


def test_solver_that_gives_up_is_reported_not_hidden():
    pot = registry.part("solvers", "pot")
    cost, supply, demand = problems(15, 4, 20, 20)
    with transport.ledger() as book:
        transport.value(pot(pot.Options(max_iterations=1)), cost, supply, demand)
    assert book.failures(2) == [2, 2]
