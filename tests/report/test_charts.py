"""Charts: nothing is left out, nothing lies outside, and words say what is drawn."""

import random

import pytest

from fewshot_cli.report import charts

R = random.Random(0)
CASES = {
    "many": [R.gauss(70, 8) // (100 / 75) * (100 / 75) for _ in range(600)],
    "two": [60.0, 80.0],
    "equal": [100.0] * 5,
    "far": [0.0, 100.0, 50.0],
    "one query": [0.0, 100.0, 100.0],
}


@pytest.mark.parametrize("name", CASES)
def test_a_histogram_counts_every_episode_within_its_frame(name):
    values = CASES[name]
    chart = charts.histogram(values, 1 if name == "one query" else 75, sum(values) / len(values))
    assert sum(int(words.split(": ")[1].split()[0]) for *_, words in chart.bars) == len(values)
    for x, y, width, height, words in chart.bars:
        low, high, count = float(words.split()[0]), float(words.split()[2]), int(words.split(": ")[1].split()[0])
        assert chart.left <= x and x + width <= chart.right + 0.01 and charts.TOP <= y <= y + height
        assert (height > 0) == (count > 0)
        top = high == max(float(w.split()[2]) for *_, w in chart.bars)
        inside = [v for v in values if low - 1e-6 <= v < high - 1e-6 or (top and v >= high - 1e-6)]
        assert len(inside) == count
    assert all(chart.left <= x <= chart.right for x, _ in chart.x_ticks) and len(chart.x_ticks) >= 2


def test_bins_of_a_histogram_hold_equally_many_possible_accuracies():
    for queries in (75, 30, 7):
        possible = [100 * correct / queries for correct in range(queries + 1)]
        counts = [int(words.split(": ")[1].split()[0]) for *_, words in charts.histogram(possible, queries, 50.0).bars]
        assert len(set(counts[:-1])) == 1 and counts[-1] <= counts[0]


@pytest.mark.parametrize("name", CASES)
def test_the_running_mean_ends_at_the_mean_and_its_interval(name):
    from fewshot_cli.evaluation.stats import mean_ci95
    from fewshot_cli.runtime.render import plus_minus

    values = CASES[name]
    chart = charts.running_mean(values)
    assert f"at {plus_minus(*mean_ci95(values))} % after {len(values)} episodes" in chart.description
    points = [tuple(map(float, pair.split(","))) for pair in chart.lines[0].points.split()]
    assert all(chart.left <= x <= chart.right and charts.TOP <= y <= chart.bottom for x, y in points)
    assert points[-1][0] == chart.right and len(points) <= 310


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (38.7, 92), (0.0001, 0.0009), (-3, 7), (0, 600)):
        found = charts.ticks(low, high)
        assert 3 <= len(found) <= 7 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9


def test_differences_keep_zero_in_sight_and_long_names_are_cut():
    chart = charts.intervals("d", "points", [("x" * 50, 4.0, 1.0), ("y", 6.0, None)], zero=True)
    assert chart.left < chart.rule < chart.rows[0].low < chart.rows[0].x < chart.rows[0].high <= chart.right
    assert len(chart.rows[0].label) == charts.LABEL and chart.rows[0].full == "x" * 50
    assert chart.rows[1].low == chart.rows[1].x == chart.rows[1].high


def test_curves_of_one_epoch_and_of_equal_values_are_drawn():
    chart = charts.curves("Loss", "loss", {"": [(1, 0.5)], "none": []})
    assert len(chart.lines) == 1 and "nan" not in chart.lines[0].points
    assert chart.description == "loss: 0.5 in epoch 1."
    flat = charts.curves("Loss", "loss", {"a": [(1, 2.0), (2, 2.0)], "b": [(1, 2.0), (2, 2.0)]})
    assert [line.name for line in flat.legend] == ["a", "b"] and len(flat.y_ticks) > 1
