"""The compiled scaling iterations and their reverse against PyTorch's, and against finite differences."""

import numpy as np
import pytest
import torch

from fewshot_cli.solvers.sinkhorn import scaling
from fewshot_cli.solvers.sinkhorn.scaling import LOOK, scale

CLOSE = {
    torch.float32: 5e-6,
    torch.float64: 1e-12,
}  # of the largest value; of the largest weight for gradients, which vanish where no flow can change
NEVER = -1.0  # a threshold


@pytest.fixture(autouse=True)
def _by_kernel(monkeypatch):
    """Nothing in this file may take another path unseen."""
    assert scaling._kernel() is not None
    by_torch = scaling._by_torch
    monkeypatch.setattr(scaling, "_by_torch", None)
    yield
    monkeypatch.setattr(scaling, "_by_torch", by_torch)


BY_TORCH = scaling._by_torch


def problems(batch=40, n=16, m=4, dtype=torch.float64, turned=True, seed=0):
    rng = torch.Generator().manual_seed(seed)
    cost = torch.rand(batch, m, n, generator=rng, dtype=dtype).mT * torch.linspace(0.2, 2, batch)[:, None, None].to(
        dtype
    )
    masses = [torch.rand(batch, x, generator=rng, dtype=dtype) + 0.1 for x in (n, m)]
    weights = torch.randn(batch, n, m, generator=rng, dtype=dtype)
    return (cost if turned else cost.contiguous()), *(x / x.sum(1, keepdim=True) for x in masses), weights


def torch_scale(*arguments):
    return BY_TORCH(*arguments, True)


def solved(run, cost, supply, demand, weights, *rule, wanted=(True, True, True)):
    """Plan, iterations, converged and the wanted gradients of a weighted sum of the plan."""
    given = [x.detach().requires_grad_(need) for x, need in zip((cost, supply, demand), wanted, strict=True)]
    plan, iterations, converged = run(*given, *rule)
    grads = torch.autograd.grad((plan * weights).sum(), [x for x in given if x.requires_grad])
    return plan.detach(), iterations, converged, grads


def agree(given, *rule, wanted=(True, True, True)):
    """Compare the two paths; returns the compiled one's results."""
    ours, theirs = (solved(run, *given, *rule, wanted=wanted) for run in (scale, torch_scale))
    close = CLOSE[given[0].dtype]
    assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
    for own, other in zip((ours[0], *ours[3]), (theirs[0], *theirs[3]), strict=True):
        assert own.shape == other.shape and own.dtype == other.dtype
        sane, least = other.isfinite(), 0 if own is ours[0] else float(given[3].abs().max())
        assert own[sane].isfinite().all() and bool(sane.any())
        assert (own - other)[sane].abs().max() <= close * max(least, float(other[sane].abs().max()))
    return ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("n", "m"), [(64, 4), (16, 4), (5, 7), (1, 3), (3, 1), (1, 1), (33, 2)])
def test_plans_stops_and_gradients_are_those_of_the_unrolled_loop(n, m, turned, each, dtype):
    given = problems(24, n, m, dtype, turned)
    for most, threshold in ((3, NEVER), (LOOK + 3, NEVER), (100, 0.05), (100, 0.5)):
        plan, iterations, converged, _ = agree(given, 0.1, most, threshold, each)
        with torch.no_grad():
            for own, other in zip(
                scale(*given[:3], 0.1, most, threshold, each), (plan, iterations, converged), strict=True
            ):
                assert torch.equal(own, other)
    assert plan.mT.is_contiguous() == given[0].mT.is_contiguous()


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("most", [2 * LOOK + 1, 200])
def test_long_runs_stop_after_any_number_of_iterations(each, most):
    given, seen = problems(24, 20, 6), set()
    for threshold in np.geomspace(20, 1e-5, 20):
        plan, iterations, converged, _ = agree(given, 0.1, most, float(threshold), each)
        seen |= set(iterations.tolist())
        assert bool((iterations[~converged] == most).all())
        with torch.no_grad():  # keeps the last few iterations alone
            assert torch.equal(scale(*given[:3], 0.1, most, float(threshold), each)[0], plan)
    assert len(seen) > 8 and max(seen) > 2 * LOOK
    assert len(set(iterations.tolist())) > 1 or not each


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("most", [1, 4])
def test_gradients_are_finite_differences(each, most):
    cost, supply, demand, _ = problems(5, 3, 4)
    given = [x.requires_grad_() for x in (cost, supply, demand)]
    assert torch.autograd.gradcheck(lambda *x: scale(*x, 0.3, most, NEVER, each)[0], given)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (True, False, True)]
)
def test_only_the_gradients_asked_for_are_made(wanted):
    agree(problems(), 0.1, 6, NEVER, False, wanted=wanted)


@pytest.mark.parametrize("each", [False, True])
def test_nodes_and_problems_without_mass(each):
    cost, supply, demand, weights = problems(8, 6, 5)
    supply[0, 2], demand[1, 3], supply[2, :3], demand[2, 1:] = 0, 0, 0, 0
    plan, *_, grads = agree((cost, supply, demand, weights), 0.1, 7, NEVER, each)
    assert plan[0, 2].abs().max() == 0 and plan[1, :, 3].abs().max() == 0
    assert all(bool(x.isfinite().all()) for x in grads)
    supply[3], demand[4] = 0, 0  # whatever comes of these, the others do not see it
    ours, theirs = (solved(run, cost, supply, demand, weights, 0.1, 7, NEVER, True) for run in (scale, torch_scale))
    assert torch.equal(ours[0].isnan(), theirs[0].isnan()) and ours[0][3:5].isnan().any()
    assert torch.equal(ours[1], theirs[1])
    others = [x for x in range(8) if x not in (3, 4)]
    assert torch.equal(ours[0][others], plan[others]) and torch.equal(ours[3][0][others], grads[0][others])


def test_no_problems_and_no_nodes():
    for shape in ((0, 4, 3), (2, 0, 3)):
        cost = torch.rand(shape, requires_grad=True)
        plan, iterations, converged = scale(cost, torch.rand(shape[:2]), torch.rand(shape[0], 3), 0.1, 5, 0.1, False)
        plan.sum().backward()
        assert plan.shape == cost.grad.shape == shape and len(iterations) == len(converged) == shape[0]


@pytest.mark.parametrize("turned", [False, True])
def test_views_and_expanded_masses(turned):
    cost, supply, demand, weights = problems(20, 9, 4, turned=turned)
    wide = torch.stack([cost, -cost], 3)[..., 0]  # neither layout
    spread = [torch.stack([x, -x], 2)[..., 0] for x in (supply.mT, demand.mT)]
    want = solved(scale, cost, supply, demand, weights, 0.1, 6, NEVER, False)
    found = solved(scale, wide, *(x.mT for x in spread), weights, 0.1, 6, NEVER, False)
    assert not wide.is_contiguous() and not wide.mT.is_contiguous()
    assert torch.allclose(found[0], want[0], rtol=1e-13)
    assert all(torch.allclose(own, other, rtol=1e-9) for own, other in zip(found[3], want[3], strict=True))
    uniform, own = torch.full((), 1 / 9, dtype=torch.float64), demand[0].requires_grad_()
    for run in (scale, torch_scale):
        own.grad = None
        plan = run(cost[::2], uniform.expand(10, 9), own.expand(10, 4), 0.1, 6, NEVER, False)[0]
        (plan * weights[::2]).sum().backward()
        want = (plan.detach(), own.grad) if run is scale else want
    assert torch.allclose(plan, want[0], rtol=1e-12) and torch.allclose(own.grad, want[1], rtol=1e-9)
    cost, spread = cost.detach().requires_grad_(), torch.ones((), dtype=torch.float64)
    plan = scale(cost, supply, demand, 0.1, 6, NEVER, False)[0]
    (grad,) = torch.autograd.grad(plan, cost, spread.expand_as(plan), retain_graph=True)
    assert torch.allclose(grad, torch.autograd.grad(plan.sum(), cost)[0], rtol=1e-9)


def test_results_do_not_hang_on_threads_and_inputs_stay():
    given, before = problems(500, 17, 3, torch.float32), torch.get_num_threads()
    copies, found = [x.clone() for x in given], {}
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for each in (False, True):
                plan, iterations, _, grads = solved(scale, *given, 0.1, 50, 0.01, each)
                found.setdefault(each, []).append([x.numpy().tobytes() for x in (plan, iterations, *grads)])
    finally:
        torch.set_num_threads(before)
    assert all(x == own[0] for own in found.values() for x in own) and found[True][0] != found[False][0]
    assert all(torch.equal(x, copy) for x, copy in zip(given, copies, strict=True))


def test_a_problem_does_not_hang_on_its_batch_where_each_stops_by_itself():
    given = problems(30, 17, 3, torch.float32)
    whole = scale(*given[:3], 0.1, 50, 0.01, True)
    parts = [scale(*(x[i : i + 1] for x in given[:3]), 0.1, 50, 0.01, True) for i in range(30)]
    assert all(torch.equal(x, torch.cat(own)) for x, own in zip(whole, zip(*parts, strict=True), strict=True))
    assert len(whole[1].unique()) > 3


def test_history_is_kept_for_the_reverse_alone(monkeypatch):
    kept, forward = [], scaling._forward

    def watched(*arguments, keep):
        made = forward(*arguments, keep=keep)
        kept.append((keep, made[3].shape[1]))
        return made

    monkeypatch.setattr(scaling, "_forward", watched)
    given = problems()
    cost = given[0].requires_grad_()
    with torch.no_grad():
        assert not scale(cost, *given[1:3], 0.1, 60, NEVER, False)[0].requires_grad
    assert not scale(cost.detach(), *given[1:3], 0.1, 60, NEVER, False)[0].requires_grad
    plan, iterations, converged = scale(cost, *given[1:3], 0.1, 60, NEVER, False)
    assert plan.requires_grad and not iterations.requires_grad and not converged.requires_grad
    assert [x for x, _ in kept] == [False, False, True] and kept[0][1] == kept[1][1] <= LOOK + 1 and kept[2][1] >= 60


def test_second_derivatives_are_refused():
    given = problems(4, 5, 3)
    cost = given[0].requires_grad_()
    (grad,) = torch.autograd.grad(
        scale(cost, *given[1:3], 0.3, 3, NEVER, False)[0].square().sum(), cost, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_costs_up_to_the_limit_have_exact_kernels_and_finite_gradients(dtype):
    cost = torch.linspace(-7.99, 7.99, 4000, dtype=dtype).view(1000, 4, 1)
    supply, demand = torch.ones(1000, 4, dtype=dtype), torch.full((1000, 1), 4.0, dtype=dtype)
    kernel = (-cost.double() / 0.1).exp()
    close = 2e-7 * 80 if dtype == torch.float32 else 1e-14
    plan = scale(cost, supply, demand, 0.1, 1, NEVER, False)[0].double()
    alpha = 1 / kernel[:, :, 0]
    assert torch.allclose(plan[:, :, 0], alpha * kernel[:, :, 0] * 4 / 4, rtol=max(close, 1e-12))
    given = problems(40, 16, 4, dtype)
    far = given[0] / given[0].amax() * 7.99
    *_, grads = solved(scale, far, *given[1:], 0.1, 7, NEVER, False)
    exact = solved(torch_scale, *(x.double() for x in (far, *given[1:])), 0.1, 7, NEVER, False)[3]
    for own, other in zip(grads, exact, strict=True):
        assert (own - other).abs().max() <= (1e-4 if dtype == torch.float32 else 1e-11) * other.abs().max()


def test_other_tensors_take_the_path_of_pytorch(monkeypatch):
    monkeypatch.setattr(scaling, "_by_torch", lambda *arguments: "torch")
    cost, supply, demand, _ = problems(4, 5, 3, torch.float32)
    for given in (
        (cost.half(), supply.half(), demand.half()),
        (100 * cost, supply, demand),
        (cost, supply.double(), demand),
    ):
        assert scale(*given, 0.1, 5, 0.1, False) == "torch"
    assert scale(cost, supply, demand, 0.1, 5, 0.1, False) != "torch"
    monkeypatch.setattr(scaling, "_kernel", lambda: None)  # Numba does not import
    assert scale(cost, supply, demand, 0.1, 5, 0.1, False) == "torch"
