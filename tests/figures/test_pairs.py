"""Match figures: lines are the plan's strongest flows, texts can be read, every format is written."""

import re

import pytest
import torch
from drawn import assert_readable, texts
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, PathPatch

from fewshot_cli.contracts import Matching
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.figures import canvas, pairs, style
from fewshot_cli.figures.panel import Panel
from fewshot_cli.heads.shared.local import cells


def made(seed=0, side=5, left=(60, 80), right=(90, 50), captions=("query: a.jpg", "1. Sooty Albatross"), verdict=None):
    """A panel with a random flow."""
    rng = torch.Generator().manual_seed(seed)
    flow = torch.rand(side**2, side**2, generator=rng).pow(8)
    places = cells((side, side))
    matching = Matching(flow, flow.sum(1), flow.sum(0), flow, 0.1234, places)
    images = (torch.rand(3, *size, generator=rng) for size in (left, right))
    return Panel(*images, places, places, places, matching, captions, verdict)


def lines(figure):
    """The drawn flows by their nodes."""
    drawn = {}
    for line in figure.findobj(PathPatch):
        if found := re.fullmatch(r"flow-(\d+)-(\d+)", line.get_gid() or ""):
            drawn[int(found[1]), int(found[2])] = line
    return drawn


@pytest.mark.parametrize("seed", range(5))
def test_the_strongest_flows_of_the_plan_are_drawn_the_wider_the_stronger(seed):
    panel = made(seed)
    flow = panel.matching.flow
    drawn = lines(pairs.draw([panel]))
    want = flow.flatten().topk(pairs.STRONGEST).indices.tolist()
    assert set(drawn) == {divmod(at, 25) for at in want}
    widths = [drawn[divmod(at, 25)].get_linewidth() for at in want]
    assert widths == sorted(widths, reverse=True) and widths[0] == 3.0 and widths[-1] >= 0.7


def test_a_node_of_the_query_has_one_colour_and_number_and_no_other_has_them():
    panel = made()
    panel.matching.flow[7, :3] = 50.0  # three flows from one node
    figure = pairs.draw([panel])
    colours = {}
    for (left, _), line in lines(figure).items():
        colours.setdefault(left, set()).add(to_hex(line.get_edgecolor()))
    nodes = sorted({flow.left for flow in panel.flows(8)})
    assert sorted(colours) == nodes and len(nodes) <= 6 and all(len(own) == 1 for own in colours.values())
    in_order = [colours[node].copy().pop() for node in nodes]
    assert in_order == list(style.PALETTE[: len(nodes)])  # numbers run in reading order
    marks = [to_hex(disc.get_facecolor()) for disc in figure.findobj(Circle)]
    assert len(marks) == len(nodes) + 8 and marks.count(colours[7].pop()) == 1 + 3


def test_lines_end_in_the_nodes_that_they_join():
    flow = torch.zeros(4, 4)
    flow[1, 2] = 1.0
    places = cells((2, 2))
    square = torch.zeros(3, 20, 20)
    panel = Panel(square, square, places, places, places, Matching(flow, flow[1], flow[1], flow, 0.0, places))
    figure = pairs.draw([panel])
    left, right, _ = (axes.get_position() for axes in figure.axes[:3])
    (line,) = lines(figure).values()
    start, end = line.get_path().vertices[[0, -1]] / figure.get_size_inches()
    assert start.tolist() == pytest.approx([left.x0 + 0.75 * left.width, left.y0 + 0.75 * left.height], abs=1e-3)
    assert end.tolist() == pytest.approx([right.x0 + 0.25 * right.width, right.y0 + 0.25 * right.height], abs=1e-3)


def test_all_flows_are_drawn_when_they_are_wanted():
    panel = made(side=3)
    drawn = lines(pairs.draw([panel], flows=True))
    assert len(drawn) == len(panel.flows()) == 81
    thin = [line for line in drawn.values() if to_hex(line.get_edgecolor()) == style.MUTED]
    assert len(thin) == 81 - pairs.STRONGEST and max(line.get_linewidth() for line in thin) < 0.7


@pytest.mark.parametrize("side", [1, 2, 12])
def test_marks_do_not_cover_each_other(side):
    figure = pairs.draw([made(side=side)])
    centres = torch.tensor([disc.center for disc in figure.findobj(Circle)])
    apart = torch.cdist(centres, centres).fill_diagonal_(9)
    assert float(apart.min()) > 0.95 * pairs.MARK


@pytest.mark.parametrize("rows", [1, 2, 5, 20])
def test_texts_lie_inside_and_apart_whatever_they_say(rows):
    name = "A_class_whose_name_somebody_made_very_long_indeed/and_then_a_little_longer" * 2
    captions = f"query: {name}", f"{rows}. {name.replace('_', ' ')}"
    verdicts = ["wrong", "truth", None, None, "right"] * 4
    panels = [made(i, side=4, captions=captions, verdict=verdicts[i]) for i in range(rows)]
    assert_readable(pairs.draw(panels, title=f"some_recipe, episode 3, query 7: {name}, taken for {name}"))


def test_a_figure_says_what_it_shows():
    figure = pairs.draw([made(verdict="wrong"), made(1, verdict="truth")], title="a title")
    said = [text for text, _ in texts(figure)]
    for words in (
        "a title",
        "query: a.jpg",
        "1. Sooty Albatross",
        "similarity 0.123",
        "✗ predicted, but wrong",
        "the right class",
        "query rebuilt from the support's patches",
        "Weight of a node, times the mean of its image:",
        "1.5 or more",
    ):
        assert words in said, words
    panel = made()
    share = sum(flow.share for flow in panel.flows(8))
    assert f"the 8 strongest flows of the optimal matching, {100 * share:.0f} % of its mass" in " ".join(
        text for text, _ in texts(pairs.draw([panel]))
    )


def test_the_predicted_and_the_right_class_are_framed():
    figure = pairs.draw([made(verdict="right"), made(1), made(2, verdict="truth")])
    frames = [axes.spines["top"] for axes in figure.axes[1:9:3]]
    assert [frame.get_visible() for frame in frames] == [True, False, True]
    assert [to_hex(frames[i].get_edgecolor()) for i in (0, 2)] == [style.RIGHT, style.TRUTH]
    assert frames[0].get_linestyle() != frames[2].get_linestyle()  # seen without colours too


@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".SVG", b"<?xml"), (".pdf", b"%PDF")])
def test_a_figure_is_the_same_file_each_time_in_every_format(tmp_path, ending, begins):
    for name in ("a", "b"):
        pairs.matches(tmp_path / "new" / (name + ending), [made(side=2, left=(8, 8), right=(8, 8))])
    first, second = ((tmp_path / "new" / (name + ending)).read_bytes() for name in ("a", "b"))
    assert first == second and first.startswith(begins)


def test_what_cannot_be_written_is_told_and_what_was_there_stays(tmp_path):
    with pytest.raises(FslError, match=r"end the name in \.png, \.svg or \.pdf"):
        canvas.check(tmp_path / "x.jpg")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="file"):
        pairs.matches(tmp_path / "file" / "x.png", [made(side=2)])
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_callers_own_style_is_left_alone(tmp_path):
    import matplotlib

    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    pairs.matches(tmp_path / "x.png", [made(side=2)])
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == backend
