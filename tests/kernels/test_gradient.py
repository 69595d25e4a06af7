"""The gradient of plans: compiled and in tensors the same, and only what is needed."""

import pytest
import torch

from fewshot_cli.kernels.gradient import by_tensors, centred, of_plans


def plans(batch, n, m, dtype):
    rng = torch.Generator().manual_seed(n)
    shapes = (batch,), (batch, n, m), (batch, n), (batch, m)
    return [torch.randn(shape, generator=rng, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "n", "m"), [(1, 1, 1), (7, 5, 3), (2100, 4, 9)])
@pytest.mark.parametrize(
    "needed", [(True, True, True), (True, False, False), (False, False, True), (False, False, False)]
)
def test_both_ways_give_the_same_and_only_what_is_needed(needed, batch, n, m, dtype):
    given = plans(batch, n, m, dtype)
    for ours, wanted, asked in zip(of_plans(needed, *given), by_tensors(needed, *given), needed, strict=True):
        assert (ours is None) == (wanted is None) == (not asked)
        assert ours is None or (torch.allclose(ours, wanted, atol=1e-5) and ours.dtype == dtype)


def test_one_gradient_for_all_is_spread_over_them():
    grad, flow, u, v = plans(6, 4, 5, torch.float64)
    spread = grad[:1].sum().expand(6)  # as `sum().backward()` gives it
    d_cost, d_supply, d_demand = of_plans((True, True, True), spread, flow, u, v)
    assert torch.allclose(d_cost, grad[0] * flow)
    assert torch.allclose(d_supply.mean(1), d_demand.mean(1)) and torch.allclose(d_supply, grad[0] * centred(u, v)[0])


def test_without_prices_masses_have_none():
    grad, flow, *_ = plans(3, 4, 5, torch.float32)
    d_cost, *rest = of_plans((True, True, True), grad, flow, None, None)
    assert torch.equal(d_cost, grad[:, None, None] * flow) and rest == [None, None]
