"""Corrected differences, standings and ranks against values by hand, scipy, published figures, and simulations."""

import numpy as np
import pytest
from scipy import stats as reference

from fewshot_cli.evaluation.comparisons import cliques, differences, holm, ranks, standings


def test_holm_worked_out_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, and never below an earlier one
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([None, 0.02]) == [None, 0.02] and holm([]) == []


def test_holm_lies_between_no_correction_and_bonferronis():
    p = np.random.default_rng(3).uniform(0, 0.1, 30).tolist()
    adjusted = holm(p)
    assert all(raw <= ours <= min(1.0, 30 * raw) for raw, ours in zip(p, adjusted, strict=True))
    assert min(adjusted) == pytest.approx(30 * min(p))


def test_a_single_difference_is_the_paired_t_test_of_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(60, 10, 25), rng.normal(58, 10, 25)
    [found], test = differences([(a.tolist(), b.tolist())]), reference.ttest_rel(a, b)
    interval = test.confidence_interval(0.95)
    assert found.p == pytest.approx(test.pvalue, rel=1e-9)
    assert (found.mean - found.ci95, found.mean + found.ci95) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_of_several_differences_intervals_are_bonferronis():
    rng = np.random.default_rng(2)
    base = rng.normal(60, 10, 40)
    pairs = [(rng.normal(60 + i, 10, 40), base) for i in range(5)]
    for found, (a, b) in zip(differences(pairs), pairs, strict=True):
        interval = reference.ttest_rel(a, b).confidence_interval(1 - 0.05 / 5)
        assert found.ci95 == pytest.approx((interval.high - interval.low) / 2, rel=1e-9)


@pytest.mark.parametrize("n", [8, 60])
def test_all_intervals_hold_at_once_and_false_alarms_are_rare_in_simulations(n):
    rng = np.random.default_rng(n)
    covered = alarmed = 0
    trials, shift = 1500, np.array([0.0, 0.0, 2.0, -1.0])
    for _ in range(trials):
        base = rng.normal(0, 5, n)
        found = differences([(base + d + rng.normal(0, 3, n), base) for d in shift])
        covered += all(abs(one.mean - d) <= one.ci95 for one, d in zip(found, shift, strict=True))
        alarmed += any(one.p < 0.05 for one, d in zip(found, shift, strict=True) if d == 0)
    assert covered / trials > 0.95 - 3 * (0.05 * 0.95 / trials) ** 0.5
    assert alarmed / trials < 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_equal_values_differ_by_nothing_and_one_episode_says_nothing():
    [same] = differences([([60.0, 80.0], [60.0, 80.0])])
    assert (same.mean, same.ci95, same.p) == (0.0, None, 1.0)
    [shifted] = differences([([61.1, 81.1, 0.3], [60.0, 80.0, -0.8])])
    assert shifted.p == pytest.approx(reference.binomtest(3, 3).pvalue) and shifted.ci95 is None
    [often] = differences([([61.1] * 12, [60.0] * 12)])
    assert often.p == pytest.approx(reference.binomtest(12, 12).pvalue) and often.ci95 == 0.0
    [single] = differences([([60.0], [50.0])])
    assert (single.mean, single.ci95, single.p) == (10.0, None, None)


def test_the_best_stands_and_those_that_tie_with_it():
    rng = np.random.default_rng(4)
    base = rng.normal(60, 10, 200)
    rows = [base - 5 + rng.normal(0, 5, 200), base, base - 0.1 + rng.normal(0, 5, 200)]
    values = [row.tolist() for row in rows]
    assert standings([*values, None]) == [None, "best", "tied", None]
    assert standings([None]) == [None] and standings([[50.0, 60.0]]) == ["best"]


def test_equal_methods_are_rarely_told_from_the_best_of_them_however_many_there_are():
    rng = np.random.default_rng(5)
    wrong = sum(None in standings(rng.normal(0, 1, (12, 60)).tolist()) for _ in range(200))
    assert wrong <= 16  # 5 % of 200 and two standard deviations


# Demšar (JMLR 7, 2006), Table 2: the AUC of four variants of C4.5 on 14 data sets
AUC = [
    (0.763, 0.768, 0.771, 0.798),
    (0.599, 0.591, 0.590, 0.569),
    (0.954, 0.971, 0.968, 0.967),
    (0.628, 0.661, 0.654, 0.657),
    (0.882, 0.888, 0.886, 0.898),
    (0.936, 0.931, 0.916, 0.931),
    (0.661, 0.668, 0.609, 0.685),
    (0.583, 0.583, 0.563, 0.625),
    (0.775, 0.838, 0.866, 0.875),
    (1.000, 1.000, 1.000, 1.000),
    (0.940, 0.962, 0.965, 0.962),
    (0.619, 0.666, 0.614, 0.669),
    (0.972, 0.981, 0.9751, 0.975),
    (0.957, 0.978, 0.946, 0.970),
]


def test_ranks_are_those_that_demsar_prints():
    found = ranks(np.array(AUC).T.tolist())
    assert found.mean == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4) and found.blocks == 14
    assert found.critical_difference == pytest.approx(1.25, abs=0.01)  # his page 13: 2.569 · √(4·5 / (6·14))
    assert found.p == pytest.approx(reference.friedmanchisquare(*np.array(AUC).T).pvalue)


def test_friedmans_false_alarms_are_as_rare_as_they_should_be():
    rng = np.random.default_rng(5)
    alarms = [ranks(rng.normal(size=(4, 30)).tolist()).p < 0.05 for _ in range(1000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.022)


def test_ranks_of_two_and_of_equal_ones():
    two = ranks([[3.0, 2.0, 5.0], [1.0, 2.0, 6.0]])
    assert two.mean == [1.5, 1.5] and two.p is None
    alike = ranks([[1.0, 2.0]] * 3)
    assert alike.mean == [2.0, 2.0, 2.0] and (alike.statistic, alike.p) == (0.0, 1.0)


def test_bars_join_the_widest_ranges_only():
    assert cliques([1.0, 1.6, 2.2, 4.0], 1.0) == [(1.0, 1.6), (1.6, 2.2)]
    assert cliques([1.0, 1.6, 1.9], 1.0) == [(1.0, 1.9)] and cliques([1.5, 1.5, 3.0], 1.0) == [(1.5, 1.5)]
    assert cliques([1.0, 2.0], 1.0) == []
