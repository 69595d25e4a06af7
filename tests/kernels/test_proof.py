"""The GPU's checks and proofs of transport problems, compiled as C++ with one lane, beside the same in tensors."""

import ctypes
import math

import one_lane
import pytest
import torch

from fewshot_cli import registry, transport
from fewshot_cli.contracts import EXACT
from fewshot_cli.errors import DataError
from fewshot_cli.kernels import certificate, facts, proof
from fewshot_cli.profiling.problems import Problems
from fewshot_cli.testing.families import FAMILIES, family

SIZES = [(1, 1), (1, 5), (4, 1), (9, 9), (25, 4), (40, 30)]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    return one_lane.compiled(proof.SOURCE, tmp_path_factory.mktemp("proof"))


def pointers(*tensors):
    return [ctypes.c_void_p(x.data_ptr()) for x in tensors]


def looked(libraries, given, blocks=3):
    """What `proof.facts` gives: the largest over all blocks."""
    cost, supply, demand = given = Problems(*given).map(torch.Tensor.contiguous)
    out = torch.empty(blocks, proof.FACTS, dtype=torch.float64)
    batch, n, m = cost.shape
    numbers = [ctypes.c_longlong(batch), n, m, ctypes.c_double(transport.TOTALS_TOLERANCE)]
    libraries[cost.dtype].facts(*pointers(*given), *numbers, *pointers(out), ctypes.c_longlong(blocks))
    return out.amax(0)


def proved(libraries, given, flow, prices, near, bit):
    cost = given[0]
    batch, n, m = cost.shape
    out = [torch.empty(batch, dtype=kind) for kind in (torch.float64, torch.bool, cost.dtype)]
    limits = map(ctypes.c_double, (near.value, near.marginal, bit))
    sent = pointers(*given, flow, prices)
    libraries[cost.dtype].certify(*sent, n, m, *limits, *pointers(*out), ctypes.c_longlong(batch))
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FAMILIES)
def test_facts_are_those_of_tensors(libraries, name, dtype):
    for n, m in SIZES:
        given = family(name, n, m, 7).map(lambda x: x.to(dtype).contiguous())
        told, wanted = (
            facts.worst(looked(libraries, given).tolist()),
            facts.by_tensors(*given, transport.TOTALS_TOLERANCE),
        )
        assert told.finite and tuple(told) == pytest.approx(
            tuple(wanted), rel=1e-5, abs=1e-4 if dtype == torch.float32 else 1e-9
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_number_that_is_not_finite_is_seen(libraries, which, bad):
    given = family("random", 7, 5, 4)
    given[which].view(-1)[-1] = bad
    assert not facts.worst(looked(libraries, given).tolist()).finite


def spoiled(plan):
    """Plans that are right, and wrong in several ways."""
    flow, prices = plan.flow, plan.supply_price
    yield flow, prices
    yield 1.001 * flow, prices
    yield flow - 1e-3, prices
    yield flow.roll(1, 2).contiguous(), prices
    yield flow, prices + 0.01 * torch.arange(prices.shape[1])
    yield flow * torch.nan, prices
    yield flow, prices * torch.nan


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*FAMILIES, "forbidden"])
def test_proofs_are_those_of_tensors(libraries, name, dtype):
    for n, m in SIZES:
        given = family("random" if name == "forbidden" else name, n, m, 5).map(lambda x: x.to(dtype).contiguous())
        if name == "forbidden":
            given.cost[:, ::2, ::3] = 1e9
        plan = registry.solver("network_simplex")().solve(*given)
        for flow, prices in spoiled(plan):
            flow, prices = flow.to(dtype), prices.to(dtype)
            told = proved(libraries, given, flow, prices, EXACT, certificate._bit(given.cost))
            wanted = certificate.by_tensors(certificate.Given(*given, flow), prices, EXACT)
            assert torch.equal(told[1], wanted[1])
            for one, other in ((told[0], wanted[0]), (told[2], wanted[2])):
                assert torch.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_problems_without_mass_are_fine(libraries):
    given = [torch.ones(2, 3, 3), torch.zeros(2, 3), torch.zeros(2, 3)]
    gap, fine, value = proved(libraries, given, torch.zeros(2, 3, 3), torch.ones(2, 3), EXACT, 1e-6)
    assert fine.all() and (gap == 0).all() and (value == 0).all()


def test_what_is_checked_later_is_refused_at_the_look(libraries):
    def after(*changes):
        pending = transport.Pending()
        for change in (lambda given: None, *changes, lambda given: None):
            given = family("random", 7, 5, 4)
            change(given)
            pending.add(looked(libraries, given), given.cost)
        return pending

    after().look()
    for change, said in (
        (lambda given: given.cost.fill_(torch.nan), "NaN or infinite"),
        (lambda given: given.supply.mul_(-1), "negative"),
        (lambda given: given.demand.mul_(1.1), "differs from"),
        (lambda given: given.cost.fill_(1e308), "do not fit into their type"),
    ):
        pending = after(change)
        with pytest.raises(DataError, match=said):
            pending.look()
        pending.look()  # has been told


def test_each_batch_is_measured_by_its_own_type_and_masses(libraries):
    pending = transport.Pending()
    for cost, mass in (
        (1e30, 1.0),
        (1.0, 1e9),
    ):  # neither product is too large, only that of one's cost and the other's mass
        given = [torch.full((2, 3, 3), cost), *(torch.full((2, 3), mass / 3) for _ in range(2))]
        pending.add(looked(libraries, given), given[0])
    wide = [
        torch.full((2, 3, 3), 1e60, dtype=torch.float64),
        *(torch.ones(2, 3, dtype=torch.float64) for _ in range(2)),
    ]
    pending.add(looked(libraries, wide), wide[0])
    pending.look()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_is_not_waited_for_until_the_look():
    given = family("random", 9, 9, 5).map(torch.Tensor.cuda)
    solver = registry.solver("network_simplex")()
    transport.value(solver, *given)
    with transport.checked_later():
        torch.cuda.set_sync_debug_mode("error")
        try:
            leaves = given.map(lambda x: x.clone().requires_grad_())
            transport.value(solver, *leaves).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    given.cost[0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="NaN or infinite"), transport.checked_later():
        transport.value(solver, *given)
