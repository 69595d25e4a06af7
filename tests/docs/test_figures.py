"""The figures of the theory pages show what the code computes, and lie where the pages look for them."""

import numpy as np
import pages
import pytest


@pytest.fixture(scope="module")
def figures():
    return pages.module("figures")


def test_every_figure_lies_in_the_folder(figures):
    assert {f"{name}.svg" for name in figures.FIGURES} == {p.name for p in (pages.DOCS / "img").glob("*.svg")}


def test_the_flow_that_is_drawn_is_that_of_the_problem(figures):
    said = [text.get_text() for text in figures.matching().axes[0].texts]
    value, flow, *_ = figures.problem(figures.COST, figures.SUPPLY, figures.DEMAND)
    assert f"value\nΣ c x = {value:.3f}" in said and f"{value:.3f}" in (pages.DOCS / "theory/matching.md").read_text(
        "utf-8"
    )
    assert sum("×" in text and "flow" not in text for text in said) == int((flow > 1e-9).sum()) == 6


def test_the_tangents_touch_the_curves(figures):
    for axes in figures.duals().axes:
        curve, tangent, point = (line.get_xydata() for line in axes.lines)
        near = np.abs(curve[:, 0] - point[0, 0]) < 0.05
        slope = np.polyfit(*curve[near].T, 1)[0]
        assert slope == pytest.approx(np.diff(tangent[:, 1])[0] / np.diff(tangent[:, 0])[0], abs=1e-6)
