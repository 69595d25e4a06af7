"""Means and intervals against values worked out by hand and against scipy.stats."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from fewshot_cli.evaluation.stats import mean_ci95, paired, share_ci95

FEW = [20.0, 40.0, 60.0, 80.0]  # mean 50; deviations ±30 and ±10, so the variance over n is 500


def test_the_interval_of_four_values_worked_out_by_hand():
    mean, ci95 = mean_ci95(FEW)
    assert mean == 50.0
    assert ci95 == pytest.approx(1.96 * math.sqrt(500 / 4), rel=1e-12)
    assert ci95 == pytest.approx(21.9134661, rel=1e-8)


def test_the_interval_of_two_values_worked_out_by_hand():
    assert mean_ci95([60.0, 80.0]) == (70.0, pytest.approx(1.96 * 10 / math.sqrt(2), rel=1e-12))


def test_values_that_do_not_vary_have_an_interval_of_nothing_and_a_single_one_has_none():
    assert mean_ci95([73.0] * 5) == (73.0, 0.0) and mean_ci95([73.0]) == (73.0, None)


@pytest.mark.parametrize("n", [2, 7, 600])
def test_the_interval_is_the_normal_one_of_scipy(n):
    values = np.random.default_rng(n).uniform(20, 100, n)
    mean, ci95 = mean_ci95(values.tolist())
    # the standard deviation of the population: divided by n, not by n − 1
    low, high = reference.norm.interval(0.95, values.mean(), np.std(values, ddof=0) / math.sqrt(n))
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert ci95 == pytest.approx((high - low) / 2, rel=2e-5)  # 1.96 is the quantile 1.959964 in three digits


def test_a_large_offset_costs_no_digits():
    assert mean_ci95([v + 2.0**40 for v in FEW])[1] == mean_ci95(FEW)[1]


def test_paired_is_the_interval_of_the_differences():
    first, second = [60.0, 80.0, 40.0], [50.0, 74.0, 38.0]  # differences 10, 6, 2: mean 6, variance 32/3
    difference, ci95 = paired(first, second)
    assert difference == 6.0
    interval = reference.ttest_rel(first, second).confidence_interval()
    assert (difference - ci95, difference + ci95) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert ci95 < mean_ci95(first)[1]  # what both runs share cancels
    assert paired(second, first) == (-6.0, ci95)


@pytest.mark.parametrize("n", [2, 5, 6, 40])
def test_differences_that_are_all_the_same_have_an_interval_once_chance_would_not_make_them(n):
    _, ci95 = paired([60.1 + i for i in range(n)], [50.0 + i for i in range(n)])
    assert ci95 == (None if reference.binomtest(n, n).pvalue > 0.05 else 0.0)


def test_paired_refuses_runs_of_different_lengths():
    with pytest.raises(ValueError, match="shorter"):
        paired(FEW, FEW[:3])


@pytest.mark.parametrize(("correct", "count"), [(0, 4), (4, 4), (1, 2), (3, 10), (57, 60), (4321, 10_000)])
def test_a_share_reaches_to_the_farther_end_of_wilsons_interval(correct, count):
    interval = reference.binomtest(correct, count).proportion_ci(0.95, method="wilson")
    share, ci95 = share_ci95(correct, count)
    assert share == pytest.approx(100 * correct / count, rel=1e-12)
    assert ci95 == pytest.approx(max(share - 100 * interval.low, 100 * interval.high - share), rel=5e-5)


def test_a_share_of_none_worked_out_by_hand():
    z2 = 1.96**2  # Wilson's interval of 0 out of n ends at z² / (n + z²)
    assert share_ci95(0, 4) == (0.0, pytest.approx(100 * z2 / (4 + z2), rel=1e-12))
