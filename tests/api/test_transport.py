"""`fewshot_cli.emd` and its companions: right by HiGHS and differences, for every shape, transformed and compiled."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from torch.func import grad, jacrev, vmap

import fewshot_cli
from fewshot_cli import DataError, RecipeError, Status


def problems(*lead, n=5, m=4, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    cost = torch.rand(*lead, n, m, generator=rng, dtype=dtype)
    supply, demand = (torch.rand(*lead, k, generator=rng, dtype=dtype) + 0.1 for k in (n, m))
    return cost, supply / supply.sum(-1, keepdim=True), demand / demand.sum(-1, keepdim=True)


def optimum(cost, supply, demand):
    """The value by HiGHS."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    return linprog(cost.numpy().ravel(), A_eq=np.vstack(rows), b_eq=np.concatenate([supply, demand])).fun


def test_values_are_optimal_for_every_number_of_batch_dimensions():
    given = problems(2, 3)
    values = fewshot_cli.emd(*given)
    assert values.shape == (2, 3)
    for i in np.ndindex(2, 3):
        assert values[i].item() == pytest.approx(optimum(*(x[i] for x in given)), abs=1e-9)
    assert torch.equal(fewshot_cli.emd(*(x[1, 2] for x in given)), values[1, 2])


def test_sides_are_uniform_where_none_are_given_and_take_the_mass_of_the_other():
    cost = problems(6, n=4, m=4)[0]
    rows, columns = zip(*(linear_sum_assignment(one) for one in cost), strict=True)
    best = torch.stack([one[r, c].mean() for one, r, c in zip(cost, rows, columns, strict=True)])
    assert torch.allclose(fewshot_cli.emd(cost), best)
    assert torch.allclose(fewshot_cli.emd(cost, demand=torch.full((4,), 0.5, dtype=torch.float64)), 2 * best)
    assert torch.allclose(fewshot_cli.emd(cost, supply=torch.full((4,), 0.5, dtype=torch.float64)), 2 * best)


def test_leading_dimensions_are_broadcast():
    cost, supply, demand = problems(3)
    one, several = (
        fewshot_cli.emd(cost[0], supply, demand[0]),
        fewshot_cli.emd(cost[0].expand(3, -1, -1), supply, demand[:1]),
    )
    assert one.shape == (3,) and torch.equal(one, several)
    assert fewshot_cli.emd(cost[:0], supply[:0], demand[:0]).shape == (0,)
    assert fewshot_cli.emd(cost[:, :0, :0]).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("dtype", "solved"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float64),
    ],
)
def test_narrow_numbers_are_solved_in_float32_and_whole_ones_in_float64(dtype, solved):
    cost = (problems(4)[0] * 8).round().to(dtype)
    value = fewshot_cli.emd(cost)
    assert value.dtype == solved
    assert torch.allclose(value.double(), fewshot_cli.emd(cost.double()), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masses_in_half_precision_are_of_one_total_as_far_as_it_can_say(dtype):
    cost, supply, demand = problems(40, n=25, m=25, dtype=torch.float32)
    both = fewshot_cli.emd(cost, supply.to(dtype), demand.to(dtype))
    assert torch.allclose(both, fewshot_cli.emd(cost, supply, demand), rtol=0.05)
    assert fewshot_cli.emd(cost, demand=demand.to(dtype)).shape == (40,)
    with pytest.raises(DataError, match="total supply"):
        fewshot_cli.emd(cost, supply.to(dtype), 2 * demand.to(dtype))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
def test_a_solver_of_the_cpu_answers_on_the_tensors_own_device(monkeypatch):
    # no GPU is needed to see where tensors go: fake ones have a device and no content
    from torch._subclasses.fake_tensor import FakeTensorMode

    from fewshot_cli import transport

    def solve(solver, c, s, d):
        assert c.device.type == "cpu"
        return transport.Plan(c, s, d, s[:, 0].long(), s[:, 0] > 0, certified_gap=s[:, 0])

    monkeypatch.setattr(transport, "check", lambda *given: None)
    monkeypatch.setattr(transport, "solve", solve)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    with FakeTensorMode():
        given = [torch.empty(shape, device="cuda") for shape in ((2, 3, 4), (2, 3), (2, 4))]
        plan = fewshot_cli.plan(*given, solver=fewshot_cli.solver("pot"))
        assert plan.flow.device.type == plan.value.device.type == plan.converged.device.type == "cuda"


def test_gradients_are_those_of_differences_in_all_three():
    # the masses change against each other: a total of their own would leave the problem
    cost, supply, demand = (x.requires_grad_() for x in problems(2))

    def value(c, s, d):
        return fewshot_cli.emd(c, s / s.sum(-1, keepdim=True), d / d.sum(-1, keepdim=True))

    assert torch.autograd.gradcheck(value, (cost, supply, demand), eps=1e-7, atol=1e-4)


def test_a_plan_holds_the_gradients_and_its_own_proof():
    given = [x.requires_grad_() for x in problems(2, 2)]
    plan = fewshot_cli.plan(*given)
    slopes = torch.autograd.grad(fewshot_cli.emd(*given).sum(), given)
    for slope, found in zip(slopes, (plan.flow, plan.supply_price, plan.demand_price), strict=True):
        assert torch.allclose(slope, found) and not found.requires_grad
    assert plan.converged.shape == plan.iterations.shape == plan.value.shape == (2, 2)
    assert plan.status is Status.OPTIMAL and float(plan.certified_gap.abs().max()) < 1e-9
    single = fewshot_cli.plan(*(x[0, 1] for x in given))
    assert single.value.shape == () and torch.equal(single.flow, plan.flow[0, 1])
    assert torch.allclose(plan.flow.sum(-1), given[1]) and torch.allclose(plan.flow.sum(-2), given[2])


def test_a_plan_says_what_it_did_not_prove():
    given = problems(3)
    assert fewshot_cli.plan(*given, solver="sinkhorn").status is Status.APPROXIMATE
    hasty = fewshot_cli.solver("sinkhorn", max_iterations=1)
    plan = fewshot_cli.plan(*given, solver=hasty)
    assert plan.status is Status.NOT_CONVERGED and not plan.converged.all()
    assert fewshot_cli.plan(given[0][:0]).status is Status.OPTIMAL


def test_sinkhorn_nears_the_optimum_as_epsilon_falls_and_has_a_gradient():
    cost, supply, demand = problems(4)
    exact = fewshot_cli.emd(cost, supply, demand)
    far, near = (fewshot_cli.sinkhorn(cost, supply, demand, epsilon=e) - exact for e in (0.3, 0.005))
    assert (far > near).all() and near.abs().max() < 0.01
    assert torch.autograd.gradcheck(
        lambda c: fewshot_cli.sinkhorn(c, supply, demand, epsilon=0.2, tolerance=1e-12),
        cost.requires_grad_(),
        atol=1e-4,
    )


def test_vmap_and_grad_give_what_batches_give():
    cost, supply, demand = problems(3, 2)
    batch = fewshot_cli.emd(cost, supply, demand)
    assert torch.equal(vmap(vmap(fewshot_cli.emd))(cost, supply, demand), batch)
    assert torch.equal(
        vmap(fewshot_cli.emd, in_dims=(2, None, None))(cost[:, 0].permute(1, 2, 0), supply[0, 0], demand[0, 0]),
        fewshot_cli.emd(cost[:, 0], supply[0, 0], demand[0, 0]),
    )
    slopes = vmap(vmap(grad(fewshot_cli.emd, argnums=(0, 1, 2))))(cost, supply, demand)
    plan = fewshot_cli.plan(cost, supply, demand)
    for slope, found in zip(slopes, (plan.flow, plan.supply_price, plan.demand_price), strict=True):
        assert torch.allclose(slope, found)
    assert vmap(fewshot_cli.emd)(cost[:0, 0]).shape == (0,)
    whole = jacrev(fewshot_cli.emd)(cost[:, 0], supply[:, 0], demand[:, 0])
    assert torch.allclose(
        whole, torch.stack([torch.stack([plan.flow[i, 0] * (i == j) for j in range(3)]) for i in range(3)])
    )


def test_it_compiles_as_one_operation_with_its_gradients():
    def loss(c, s, d):
        return (fewshot_cli.emd(c * 2, s, d) ** 2).sum()

    plain, compiled = ([x.requires_grad_() for x in problems(3)] for _ in range(2))
    loss(*plain).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(*compiled).backward()
    for a, b in zip(plain, compiled, strict=True):
        assert torch.allclose(a.grad, b.grad)
    from fewshot_cli.api import transport

    torch.library.opcheck(transport._opaque, (*problems(3), "network_simplex {}"))


def test_a_second_derivative_is_refused():
    given = [x.requires_grad_() for x in problems(2)]
    slopes = torch.autograd.grad(fewshot_cli.emd(*given).sum(), given, create_graph=True)
    for slope in slopes:
        with pytest.raises(RuntimeError, match="differentiable once"):
            slope.square().sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad(lambda c: grad(fewshot_cli.emd)(c).square().sum())(given[0][0].detach())


def test_what_cannot_be_solved_is_one_sentence():
    cost, supply, demand = problems(2)
    with pytest.raises(ValueError, match=r"supply \[2, 4\] does not go with cost \[2, 5, 4\]; give \[…, 5\]"):
        fewshot_cli.emd(cost, demand, demand)
    with pytest.raises(ValueError, match="do not go together"):
        fewshot_cli.emd(cost, supply[:1].expand(3, -1), demand)
    with pytest.raises(ValueError, match="is no matrix"):
        fewshot_cli.emd(cost[0, 0])
    with pytest.raises(DataError, match="total supply"):
        fewshot_cli.emd(cost, 2 * supply, demand)
    with pytest.raises(DataError, match="NaN"):
        vmap(fewshot_cli.emd)(cost * torch.nan)
    with pytest.raises(RecipeError, match="did you mean 'sinkhorn'"):
        fewshot_cli.emd(cost, solver="sinkhorm")
    with pytest.raises(RecipeError, match="solver sinkhorn: epsilon: unknown key"):
        fewshot_cli.solver("sinkhorn", epsilon=1)
    with pytest.raises(DataError, match="plan takes a whole batch"):
        vmap(lambda c: fewshot_cli.plan(c).value)(cost)
    with pytest.raises(DataError, match="differentiates itself"):
        vmap(fewshot_cli.sinkhorn)(cost)


def test_a_side_without_nodes_costs_nothing_and_has_a_gradient_of_nothing():
    cost, supply, demand = torch.zeros(3, 0, 4), torch.zeros(3, 0), torch.zeros(3, 4, requires_grad=True)
    value = fewshot_cli.emd(cost, supply, demand)
    value.sum().backward()
    assert value.tolist() == [0, 0, 0] and not demand.grad.any()


def test_options_that_change_at_every_step_are_not_all_kept():
    from fewshot_cli.api import transport

    for step in range(3 * transport._KEPT):
        fewshot_cli.solver("sinkhorn", regularisation=0.1 + step / 1000)
    assert len(transport._solvers) <= transport._KEPT


def test_a_solver_is_made_once_for_the_same_options():
    assert fewshot_cli.solver(workers=1) is fewshot_cli.solver("network_simplex", workers=1)
    assert fewshot_cli.solver(workers=1) is not fewshot_cli.solver(workers=2)
