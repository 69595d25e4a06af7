"""What is checked of problems: the compiled pass and the one in tensors tell the same, and find every bad number."""

import math

import pytest
import torch

from fewshot_cli.kernels.facts import Facts, by_tensors, facts_of

TOLERANCE = 1e-4


def problems(batch, n, m, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    cost = torch.rand(batch, n, m, generator=rng, dtype=dtype) * 4 - 3
    supply, demand = (torch.rand(batch, k, generator=rng, dtype=dtype) + 0.1 for k in (n, m))
    return cost, supply, demand * (supply.sum(1) / demand.sum(1))[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "n", "m"), [(1, 1, 1), (3, 5, 7), (40, 16, 8), (9, 25, 25)])
def test_both_ways_tell_the_same(batch, n, m, dtype):
    given = problems(batch, n, m, dtype)
    found, wanted = facts_of(*given, TOLERANCE), by_tensors(*given, TOLERANCE)
    assert tuple(found) == pytest.approx(tuple(wanted), rel=1e-5, abs=1e-5) and found.finite and found.excess < 0
    cost, supply, demand = given
    assert found.largest == float(cost.abs().max()) and found.least == float(min(supply.min(), demand.min()))


def test_threads_share_the_work_and_tell_the_same():
    given = problems(5000, 3, 2)
    assert facts_of(*given, TOLERANCE, workers=2) == facts_of(*given, TOLERANCE, workers=1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("place", [0, -1])
def test_a_number_that_is_not_finite_is_found_wherever_it_is(which, bad, place):
    for n, m in ((1, 1), (5, 7), (16, 16)):
        for ways in (facts_of, by_tensors):
            given = problems(4, n, m)
            given[which].view(-1)[place] = bad
            assert not ways(*given, TOLERANCE).finite


def test_the_worst_problem_decides():
    for ways in (facts_of, by_tensors):
        cost, supply, demand = problems(6, 5, 4)
        cost[3, 2, 1], supply[4, 0] = -70.0, -0.25
        found: Facts = ways(cost, supply, demand, TOLERANCE)
        apart = float((supply[4].sum() - demand[4].sum()).abs())
        assert (found.largest, found.least) == (70.0, -0.25)
        assert found.excess == pytest.approx(apart - TOLERANCE * float(demand[4].sum()))
        assert found.lightest == pytest.approx(float(supply.sum(1).min()))
        assert found.heaviest == pytest.approx(float(supply.sum(1).max()))


def test_totals_beyond_the_type_are_not_below_any():
    cost, supply, demand = problems(2, 3, 3)
    supply[1], demand[1] = 1.5e308, 1.5e308
    assert not math.isfinite(facts_of(cost, supply, demand, TOLERANCE).excess)
