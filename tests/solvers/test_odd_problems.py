"""Problems that every caller can pose by accident: their value is right for every solver, or they are refused."""

import numpy as np
import pytest
import torch

from fewshot_cli import registry, transport
from fewshot_cli.errors import DataError
from fewshot_cli.testing.families import family

RNG = torch.Generator().manual_seed(11)
COST = torch.rand(3, 4, 4, generator=RNG, dtype=torch.float64)
SUPPLY, DEMAND = (torch.softmax(torch.randn(3, 4, generator=RNG, dtype=torch.float64), 1) for _ in range(2))
SOLVERS = [name for name in registry.working_solvers() if name != "uniform"]  # which has masses of its own


def value_and_gradients(name, *problem):
    solver = registry.solver(name)()
    given = [x.clone().requires_grad_(x.is_floating_point()) for x in problem]
    value = transport.value(solver, *given)
    value.sum().backward()
    return value.detach(), [x.grad for x in given if x.grad is not None]


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("total", [0.0, 1e-200, 3e-7, 1e9, 3e200])
def test_masses_of_any_size_scale_the_value_and_leave_the_prices(name, total):
    factors = torch.tensor([1.0, total, 1.0], dtype=torch.float64)[:, None]
    usual, their_gradients = value_and_gradients(name, COST, SUPPLY, DEMAND)
    value, gradients = value_and_gradients(name, COST, SUPPLY * factors, DEMAND * factors)
    torch.testing.assert_close(value, usual * factors[:, 0], rtol=2e-3, atol=0)
    assert all(bool(torch.isfinite(x).all()) for x in gradients)
    if total and len(gradients) == 3 and name in ("network_simplex", "highs", "pot"):
        torch.testing.assert_close(gradients[1:], their_gradients[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_whole_numbers_and_mixed_dtypes_are_the_same_problem(name):
    cost, supply = (COST * 9).round(), torch.tensor([[1, 0, 3, 2]] * 3)
    expected, _ = value_and_gradients(name, cost, supply.double(), supply.flip(1).double())
    for cast in (torch.int64, torch.int32, torch.float32, torch.bfloat16):
        given = [x.requires_grad_(x.is_floating_point()) for x in (cost.to(cast), supply.double(), supply.flip(1))]
        value = transport.value(registry.solver(name)(), *given)
        assert value.dtype == torch.float64
        torch.testing.assert_close(value.detach(), expected)


@pytest.mark.parametrize("name", [*SOLVERS, "uniform"])
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0), (2, 0, 0)])
def test_problems_without_nodes_cost_nothing(name, shape):
    batch, n, m = shape
    value, gradients = value_and_gradients(name, torch.zeros(shape), torch.zeros(batch, n), torch.zeros(batch, m))
    assert value.tolist() == [0.0] * batch and len(gradients) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, s, d: (c[:, :0], s[:, :0], d), "total supply 0 differs from total demand 1"),
        (lambda c, s, d: (c, s * 0 + 1e308, d * 0 + 1e308), "total masses up to inf, whose products do not fit"),
        (lambda c, s, d: (c.float() * 3e38, s.float(), d.float()), "do not fit into float32; scale them down"),
        (lambda c, s, d: (c * 1e200, s * 1e200, d * 1e200), "costs up to 9.67e+199 and total masses up to 1e+200"),
        (lambda c, s, d: (c.to(torch.complex64), s, d), "complex numbers"),
        (lambda c, s, d: (c, -s, -d), "negative supply or demand"),
        (lambda c, s, d: (c, s, d.index_fill(0, torch.tensor(1), torch.nan)), "problem 1: NaN or infinite demand"),
    ],
)
def test_what_has_no_answer_is_one_sentence(change, words):
    with pytest.raises(DataError, match=words.replace("+", r"\+")):
        transport.value(registry.solver("network_simplex")(), *change(COST, SUPPLY, DEMAND))


def wide(kind: str, rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    noise = rng.random((n, m))
    if kind == "offset":
        return 1e6 + 1e-6 * noise
    if kind == "rows and columns":
        return 1e6 * rng.random((n, 1)) + 1e6 * rng.random((1, m)) + 1e-4 * noise
    if kind == "forbidden":
        return np.where(rng.random((n, m)) < 0.3, 1e9, noise)
    return 10.0 ** rng.uniform(-6, 6, (n, m))


@pytest.mark.parametrize("kind", ["offset", "rows and columns", "forbidden", "decades"])
@pytest.mark.parametrize(("n", "m"), [(30, 30), (17, 45), (45, 17)])
def test_costs_of_a_wide_range_are_solved_to_the_precision_of_their_differences(kind, n, m):
    """Weak duality in extended precision: no plan can be better than the prices say, and this one is as good."""
    rng = np.random.default_rng(n)
    cost = wide(kind, rng, n, m)
    supply, demand = rng.random(n) + 0.1, rng.random(m) + 0.1
    supply, demand = supply / supply.sum(), demand / demand.sum()
    plan = registry.solver("network_simplex")().solve(*(torch.from_numpy(x)[None] for x in (cost, supply, demand)))
    flow, u, v = (x[0].numpy().astype(np.longdouble) for x in (plan.flow, plan.supply_price, plan.demand_price))
    exact = cost.astype(np.longdouble)
    reduced = exact - u[:, None] - v[None]
    used = flow > 0
    scale = np.abs(cost[used] - (cost.min() if kind in ("offset",) else 0)).max()
    if kind == "rows and columns":
        scale = 1e6 * 1e-6  # prices of 1e6 in float64 end at 1e-10
    assert plan.converged.all() and used.sum() < n + m
    assert reduced.min() >= -1e-9 * scale and np.abs(reduced[used]).max() <= 1e-9 * scale
    np.testing.assert_allclose(plan.flow[0].numpy().sum(1), supply, rtol=1e-9)
    np.testing.assert_allclose(plan.flow[0].numpy().sum(0), demand, rtol=1e-9)
    assert int(plan.iterations[0]) < 40 * (n + m)


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (4, 3)])
def test_what_has_no_mass_ships_nothing_over_a_forbidden_arc(size):
    cost, supply, demand = (x.clone() for x in family("random", *size, 20, 3))
    side = demand if size[1] > 1 else supply
    other = supply if size[1] > 1 else demand
    side[:, :-1] = 0.0
    side[:, -1] = other.sum(1)
    arc = cost[:, :, 0] if size[1] > 1 else cost[:, 0]
    arc.fill_(1e9)
    plan = transport.solve(registry.solver("network_simplex")(), cost, supply, demand)
    gone = plan.flow[:, :, 0] if size[1] > 1 else plan.flow[:, 0]
    assert plan.converged.all() and (gone == 0).all()


@pytest.mark.parametrize(
    ("dtype", "scale", "fine"), [(torch.float64, 1e9, True), (torch.float64, 1e30, False), (torch.float32, 1e6, False)]
)
def test_sinkhorn_does_not_claim_what_its_type_cannot_resolve(dtype, scale, fine):
    cost, supply, demand = (x.to(dtype) for x in family("all equal", 1, 5, 3, 0))
    plan = transport.solve(registry.solver("sinkhorn")(), scale * cost, supply, demand)
    off = float((plan.flow.sum(1) - demand).abs().max())
    assert plan.converged.all() == fine and (not fine or off < 1e-3)
