"""Every installed solver through the contract suite that ships with the package, and the suite through broken
solvers.
"""

import subprocess
import sys

import pytest
import torch

from fewshot_cli import registry, transport
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.errors import DataError
from fewshot_cli.testing import solvers
from fewshot_cli.testing.families import family

SOLVERS = sorted(registry.entries("solvers"))
VARIANTS = {"sinkhorn": {"gradient": "unrolled"}, "qpth": {"form": "QP"}}
REASONS = ("is not exact", "returns no prices", "has no workers", "has no warm start", "qpth does not import")


@pytest.mark.parametrize("check", solvers.CHECKS)
@pytest.mark.parametrize("name", SOLVERS)
def test_solver_keeps_its_contract(name, check):
    cls = registry.solver(name)
    if (reason := cls.unavailable_reason()) is not None:
        pytest.skip(reason)
    if (reason := solvers.CHECKS[check](solvers.case(name))) is not None:
        assert reason.startswith(REASONS) or name == "uniform", reason
        pytest.skip(reason)


@pytest.mark.parametrize("name", ["network_simplex", "pot", "highs", "opencv", "sinkhorn", "pot_sinkhorn"])
def test_solver_refuses_no_family(name):
    for kind in solvers.FAMILIES:
        for size in solvers.SHAPES:
            assert solvers.solved(solvers.case(name), family(kind, *size, 1)) is not None, (kind, size)


def test_extremes_of_float64_are_right_or_refused():
    solver = registry.solver("network_simplex")()
    cost, supply, demand = family("random", 20, 5, 2)
    best = transport.value(solver, cost, supply, demand)
    assert torch.allclose(transport.value(solver, cost * 8e304, supply / 100, demand / 100) / 8e304, best / 100)
    assert torch.allclose(transport.value(solver, cost, supply * 1e-240, demand * 1e-240) * 1e240, best)
    assert torch.allclose(transport.value(solver, cost, supply * 1e-300, demand * 1e-300) * 1e300, best)
    with pytest.raises(DataError, match="do not fit into float64; scale them down"):  # nor would its prices
        transport.value(solver, cost * 8e307, supply / 100, demand / 100)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("size", [(4, 4), (7, 3), (40, 60)])
def test_what_is_not_finite_does_not_converge_even_without_the_gate(size, which, wrong):
    given = family("random", *size, 3)
    given[which][1].view(-1)[1] = wrong
    plan = registry.solver("network_simplex")().solve(*given)
    assert plan.converged.tolist() == [True, False, True]
    assert all(torch.isfinite(x).all() for x in (plan.flow, plan.supply_price, plan.demand_price))


def test_epsilon_scaling_keeps_to_its_iterations():
    cls, given = registry.solver("sinkhorn"), family("random", 9, 9, 3)
    slow = cls(cls.Options(scaling=0.999999, max_iterations=50)).solve(*given)
    assert (slow.iterations <= 50).all() and (slow.iterations > 40).all() and not slow.converged.any()
    quick = cls(cls.Options(scaling=0.5)).solve(*given)
    assert quick.converged.all() and torch.allclose(quick.flow, cls().solve(*given).flow, atol=1e-3)


@pytest.mark.parametrize("name", ["sinkhorn", "pot_sinkhorn", "network_simplex", "pot"])
def test_nodes_without_mass_have_finite_gradients(name):
    given = [x.requires_grad_() for x in family("exact zeros", 7, 7, 3)]
    value = transport.value(registry.solver(name)(), *given).sum()
    assert all(torch.isfinite(x).all() for x in torch.autograd.grad(value, given))


@pytest.mark.parametrize(
    ("name", "check"), [("sinkhorn", "optimal"), *((n, c) for n in VARIANTS for c in ("consistent", "differentiable"))]
)
def test_solver_keeps_its_contract_with_other_options(name, check):
    cls = registry.solver(name)
    if (reason := cls.unavailable_reason()) is not None:
        pytest.skip(reason)
    assert solvers.CHECKS[check](solvers.case(name, cls(cls.Options(**VARIANTS[name])))) is None


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_says_its_time_in_the_literature(name):
    formula, exponent = registry.solver(name).complexity
    assert formula.startswith("O(") and (exponent is None or 1 < exponent < 10)


class Spoiled(Solver):
    """The network simplex with its answer bent."""

    exact = True

    def __init__(self, bend, workers=0):
        super().__init__()
        self.bend, self.own = bend, registry.solver("network_simplex")()

    def solve(self, cost, supply, demand):
        plan = self.own.solve(cost, supply, demand)
        return self.bend(plan, cost, supply) or plan


def plan_with(plan, **new):
    return Plan(**{k: new.get(k, getattr(plan, k)) for k in Plan.__dataclass_fields__})


BENT = {
    "optimal": [
        lambda p, c, s: plan_with(
            p, flow=s[:, :, None] * p.flow.sum(1)[:, None] / s.sum(1)[:, None, None]
        ),  # no optimum
        lambda p, c, s: plan_with(p, flow=1.001 * p.flow),
        lambda p, c, s: plan_with(p, converged=~p.converged),
    ],
    "priced": [
        lambda p, c, s: plan_with(p, supply_price=p.supply_price + 1e-3),
        lambda p, c, s: plan_with(p, supply_price=p.supply_price * 0.999),
    ],
    "consistent": [
        lambda p, c, s: plan_with(p, flow=p.flow * (1 + 1e-3 * len(c))),
        lambda p, c, s: plan_with(p, flow=p.flow + 1e-3),
    ],
    "careful": [
        lambda p, c, s: plan_with(p, flow=p.flow + 0 * c.mul_(1.0001)),
        lambda p, c, s: plan_with(p, flow=p.flow.float()),
        lambda p, c, s: plan_with(p, iterations=p.iterations[:1]),
    ],
    "differentiable": [
        lambda p, c, s: plan_with(p, supply_price=-p.supply_price),
        lambda p, c, s: plan_with(p, flow=p.flow.flip(1)),
    ],
    "like_autograd": [lambda p, c, s: plan_with(p, demand_price=0.99 * p.demand_price)],
    "between": [lambda p, c, s: plan_with(p, supply_price=p.supply_price * 1.5)],
}


@pytest.mark.parametrize(("check", "bend"), [(check, bend) for check, bends in BENT.items() for bend in bends])
def test_suite_catches_a_solver_that(check, bend):
    if check == "like_autograd" and registry.solver("qpth").unavailable_reason() is not None:
        pytest.skip("qpth is not installed")
    assert solvers.CHECKS[check](solvers.Case(Spoiled(lambda p, c, s: None), solvers.EXACT)) is None
    with pytest.raises(solvers.Failed):
        solvers.CHECKS[check](solvers.Case(Spoiled(bend), solvers.EXACT))


def test_suite_catches_missing_refusals_and_dependence_on_workers(monkeypatch):
    cls = registry.solver("network_simplex")
    solve = cls.solve

    def uneven(self, cost, supply, demand):
        plan = solve(self, cost, supply, demand)
        return plan_with(plan, flow=plan.flow * (1 + 1e-9 * self.options.workers))

    monkeypatch.setattr(cls, "solve", uneven)
    with pytest.raises(solvers.Failed, match="workers"):
        solvers.parallel(solvers.case("network_simplex"))
    monkeypatch.setattr(transport, "check", lambda *_: None)
    with pytest.raises(solvers.Failed, match="not refused"):
        solvers.strict(solvers.case("network_simplex"))


def test_opencv_leaves_weights_without_gradient_and_says_so_once(capsys):
    transport._TOLD.clear()
    opencv = registry.solver("opencv")()
    cost, supply, demand = (x.requires_grad_() for x in family("random", 4, 4, 2, seed=14))
    for _ in range(2):
        value = transport.value(opencv, cost, supply, demand)
        assert torch.autograd.grad(value.sum(), supply, allow_unused=True) == (None,)
    assert capsys.readouterr().err.count("no dual prices") == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pot", {"max_iterations": 1}),
        ("sinkhorn", {"max_iterations": 3}),
        ("pot_sinkhorn", {"max_iterations": 3}),
        ("qpth", {"max_iterations": 1}),
    ],
)
def test_solver_that_gives_up_is_reported_not_hidden(name, options):
    cls = registry.solver(name)
    if (reason := cls.unavailable_reason()) is not None:
        pytest.skip(reason)
    with transport.ledger() as book:
        transport.value(cls(cls.Options(**options)), *family("random", 20, 20, 4, seed=15))
    assert book.failures(2) == [2, 2]


def test_uniform_refuses_what_it_is_not_made_for():
    uniform = registry.solver("uniform")()
    with pytest.raises(Exception, match="equal weight"):
        transport.value(uniform, *family("random", 5, 5, 2))
    with pytest.raises(Exception, match="one to one"):
        transport.value(uniform, *family("uniform weights", 5, 6, 2))


def test_suite_catches_a_warm_start_that_is_believed(monkeypatch):
    cls = registry.solver("network_simplex")
    solve = cls.solve
    assert solvers.restartable(solvers.case("network_simplex")) is None

    def trusting(self, cost, supply, demand, basis=None):
        plan = solve(self, cost, supply, demand)
        if basis is None:
            return plan
        flow = supply[:, :, None] * demand[:, None] / supply.sum(1)[:, None, None]
        return plan_with(plan, flow=flow, iterations=0 * plan.iterations)

    monkeypatch.setattr(cls, "solve", trusting)
    with pytest.raises(solvers.Failed, match="changes the value"):
        solvers.restartable(solvers.case("network_simplex"))


def test_value_keeps_the_basis_for_the_caller():
    given, basis = family("random", 8, 8, 3), transport.Basis()
    solver = registry.solver("network_simplex")()
    with transport.ledger() as book:
        values = [transport.value(solver, *given, basis) for _ in range(2)]
    assert torch.equal(*values) and basis.trees.shape == (3, 16)
    assert (book.iterations[0] > 0).all() and (book.iterations[1] == 0).all()
    with pytest.raises(ValueError, match="basis"):
        transport.value(solver, *family("random", 8, 7, 3), basis)
    transport.value(registry.solver("pot")(), *given, basis)
    assert basis.trees is None


@pytest.mark.parametrize("kind", ["random", "uniform weights", "zero or one", "masses over eight decades"])
@pytest.mark.parametrize("size", [(441, 441), (100, 441), (1000, 1000), (2046, 1)])
def test_large_problems_close_their_gap(kind, size):
    cost, supply, demand = given = family(kind, *size, 1)
    plan = registry.solver("network_simplex")().solve(*given)
    near = 1e-11 * float(supply.sum() * cost.abs().max())
    primal, dual = (cost * plan.flow).sum(), (plan.supply_price * supply).sum() + (plan.demand_price * demand).sum()
    assert plan.converged.all() and abs(primal - dual) <= near
    assert (plan.flow.sum(2) - supply).abs().max() <= 1e-11 * supply.sum()
    assert (cost - plan.supply_price[:, :, None] - plan.demand_price[:, None]).min() >= -1e-11


def test_too_many_nodes_are_a_sentence():
    with pytest.raises(Exception, match="2047 network_simplex takes; use --solver pot"):
        transport.value(registry.solver("network_simplex")(), *family("random", 2047, 1, 1))


def test_qpth_in_chunks_gives_the_gradient_of_one_chunk_and_a_singular_one_is_a_sentence(monkeypatch):
    cls = registry.solver("qpth")
    if (reason := cls.unavailable_reason()) is not None:
        pytest.skip(reason)
    raw = [x.requires_grad_() for x in family("random", 5, 6, 4, seed=11)]

    def gradient(memory):
        scaled = [raw[0], *(6 * x / x.sum(1, keepdim=True) for x in raw[1:])]
        return torch.autograd.grad(transport.value(cls(cls.Options(memory=memory)), *scaled).sum(), raw)

    for one, many in zip(gradient(2.0), gradient(1e-9), strict=True):
        assert torch.allclose(one, many, rtol=1e-4, atol=1e-6)
    value = transport.value(cls(), *raw).sum()
    grad = torch.autograd.grad

    def singular(outputs, *rest, **more):
        if outputs is not value:
            raise RuntimeError("torch.linalg.lu_factor: U[9,9] is zero. If you still want to")
        return grad(outputs, *rest, **more)

    monkeypatch.setattr(torch.autograd, "grad", singular)
    with pytest.raises(
        Exception, match=r"KKT matrix is singular \(torch.linalg.lu_factor: U\[9,9\] is zero\); use --solver"
    ):
        torch.autograd.grad(value, raw)


def test_qpth_is_right_after_the_number_of_threads_was_set():
    """Some builds of PyTorch then return batched LU factors without pivots, or wait for ever."""
    if (reason := registry.solver("qpth").unavailable_reason()) is not None:
        pytest.skip(reason)
    code = (
        "import torch; torch.set_num_threads(2)\n"
        "from fewshot_cli.testing import solvers\n"
        "from fewshot_cli.testing.families import family\n"
        "given = family('random', 16, 16, 3)\n"
        "gap = solvers.case('qpth').value(*given) - solvers.case('network_simplex').value(*given)\n"
        "assert gap.abs().max() < 1e-3, gap\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=300)
