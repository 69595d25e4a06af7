"""Curves: their names stand at their ends and can be read, axes say what they measure, exponents have intervals."""

import math

import pytest
from drawn import assert_readable, texts
from scipy import stats

from fewshot_cli.figures import curves, style


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, drawn in their style."""
    figures = []
    monkeypatch.setattr(curves, "save", lambda _, figure: (assert_readable(figure), figures.append(figure)))
    return figures


def measured(solvers=("network_simplex", "pot_sinkhorn"), sizes=(9, 25, 49, 100), seconds=None):
    seconds = seconds or (lambda place, n: (1 + place / 9) * 1e-7 * n**2 * (1 + 0.1 * math.sin(n + place)))
    return [{"solver": s, "n": n, "m": n, "seconds": seconds(i, n)} for i, s in enumerate(solvers) for n in sizes] + [
        {"solver": "qpth", "n": 9, "m": 9, "skipped": "no room"}
    ]


def fitted(records):
    """As `profiling.solvers.fits` gives them, by SciPy."""
    rows = []
    for solver in dict.fromkeys(r["solver"] for r in records):
        own = [r for r in records if r["solver"] == solver and "seconds" in r]
        row = {"solver": solver, "sizes": len(own)}
        if len(own) > 2:
            line = stats.linregress([math.log(r["n"]) for r in own], [math.log(r["seconds"]) for r in own])
            reach = stats.t.ppf(0.975, len(own) - 2) * line.stderr
            row |= {"exponent": line.slope, "exponent_ci95": reach, "from": 9, "to": 100}
        rows.append(row)
    return rows


def test_each_solver_has_its_name_and_the_interval_of_its_exponent(drawn, tmp_path):
    records = measured()
    fits = fitted(records)
    curves.complexity(tmp_path / "x.png", records, fits, "Transport solvers on cpu")
    (figure,) = drawn
    said = [text for text, _ in texts(figure)]
    assert {"network simplex", "pot sinkhorn", "seconds per problem"} <= set(said) and "qpth" not in said
    assert "problem size n = m (nodes per side)" in said
    for fit in fits[:2]:
        low, high = (fit["exponent"] + sign * fit["exponent_ci95"] for sign in (-1, 1))
        assert f"n^{fit['exponent']:.2f} (95 %: {low:.2f} to {high:.2f})" in said
    axes = figure.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[r["n"], r["seconds"]] for r in records if r["solver"] == fit["solver"]] for fit in fits[:2]
    ]


@pytest.mark.parametrize("count", [1, 2, 8, 12])
def test_names_do_not_cover_each_other_where_curves_end_together(drawn, tmp_path, count):
    solvers = [f"a_solver_with_a_name_of_its_own_{i}" for i in range(count)]
    records = measured(solvers, seconds=lambda place, n: 1e-6 * n**2 * (1 + place / 1000))
    curves.complexity(tmp_path / "x.png", records, fitted(records), "a title " * 40)
    axes = drawn[0].axes[0]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}) == count
    assert axes.get_position().x1 > 0.55  # no third of the figure is empty


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ([5, 2], [5, 2]),
        ([0.1, 0.0, 0.2], [1.5, 0.5, 2.5]),
        ([9.9, 9.8, 2], [9.5, 8.5, 2]),
        ([5, 5.1, 4.9], [5.9, 6.9, 4.9]),
    ],
)
def test_names_are_moved_no_further_than_others_need(wanted, given):
    assert curves._stacked(wanted, [1.0] * len(wanted), 0, 10) == pytest.approx(given)


def test_sizes_of_two_sides_and_few_measurements_are_labelled_too(drawn, tmp_path):
    records = [{"solver": "s", "n": n, "m": 4 * n, "seconds": 1e-4 * n} for n in (2, 3)]
    curves.complexity(tmp_path / "x.png", records, [{"solver": "s", "sizes": 2}], "")
    said = [text for text, _ in texts(drawn[0])]
    assert "problem size √(n·m) (nodes per side)" in said and {"4", "6", "2·10⁻⁴"} <= set(said)
    curves.complexity(tmp_path / "x.png", [], [], "nothing was measured")


def test_error_over_time_has_a_panel_for_each_size_and_a_line_through_a_solvers_settings(drawn, tmp_path):
    records = [
        {"solver": solver, "n": n, "m": n, "seconds": n * seconds, "relative_gap": gap}
        for n in (9, 16, 25, 49)
        for solver, seconds, gap in (
            ("network_simplex", 1e-6, -1e-12),
            ("sinkhorn regularisation=0.1", 2e-6, 0.1),
            ("sinkhorn regularisation=0.01", 3e-5, 0.01),
            ("pot_sinkhorn method=proximal", 1e-3, 0.2),
            ("huge", 1.0, None),
        )
    ] + [{"solver": "qpth", "n": 9, "m": 9, "skipped": "no room"}]
    curves.frontier(tmp_path / "x.png", records, "Transport solvers on cpu")
    panels = [axes for axes in drawn[0].axes if axes.axison]
    assert [axes.get_title() for axes in panels] == ["9×9", "16×16", "25×25", "49×49"]
    for axes, n in zip(panels, (9, 16, 25, 49), strict=True):
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert [line.get_xydata().tolist() for line in axes.lines] == [
            [[pytest.approx(n * 1e-6), curves.FLOOR]],
            [[pytest.approx(n * 2e-6), 0.1], [pytest.approx(n * 3e-5), 0.01]],
            [[pytest.approx(n * 1e-3), 0.2]],
        ]
    (legend,) = drawn[0].legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["network simplex", "sinkhorn", "pot sinkhorn method=proximal"]
    curves.frontier(tmp_path / "x.png", [], "nothing was measured")


def test_numbers_of_a_logarithmic_axis_are_written_out():
    assert [curves._power(x) for x in (1e-4, 5e-5, 1, 2000)] == ["10⁻⁴", "5·10⁻⁵", "10⁰", "2·10³"]


def test_accuracy_over_shots_has_a_line_for_each_row_that_was_run(drawn, tmp_path):
    records = [
        {"row": row, "shot": shot, "accuracy": 60 + shot + i, "ci95": None if shot == 1 else 0.5}
        for i, row in enumerate(("EMD", "ProtoNet (Snell et al.), cosine distance of pooled features"))
        for shot in (1, 5, 10)
    ] + [{"row": "left out", "shot": 5, "missing": "no weights"}]
    curves.curves(tmp_path / "x.png", records, "deepemd.Fig4 on cub")
    said = [text for text, _ in texts(drawn[0])]
    assert {"EMD", "shots (support images per class)", "accuracy (%), with 95 % interval"} <= set(said)
    assert "left out" not in said and {"1", "5", "10"} <= set(said)


def test_iterations_and_training_say_what_their_axes_are(drawn, tmp_path):
    curves.iterations(tmp_path / "x.png", [{"row": "a", "iterations": {"epochs": [3.0, 2, 1]}}, {"row": "b"}], "t")
    log = [{"epoch": i, "loss": 1 / i, "train_accuracy": 9 * i} for i in (1, 2, 3, 4)]
    log[3]["validation"] = {"accuracy": 30, "ci95": None}
    curves.training(tmp_path / "x.png", log, "runs/pretrain/cub")
    curves.training(tmp_path / "x.png", log[:1], "the first epoch, which is a point")
    first, second, single = ([text for text, _ in texts(figure)] for figure in drawn)
    assert {"solver iterations per problem", "epoch", "a"} <= set(first)
    assert {"training loss (cross-entropy)", "accuracy (%)", "training batches"} <= set(second)
    assert "validation, with 95 % interval" in second and "validation, with 95 % interval" not in single
    assert drawn[2].axes[0].lines[0].get_marker() == "o" and drawn[1].axes[0].lines[0].get_color() in style.PALETTE
