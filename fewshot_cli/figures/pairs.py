"""Pairs of images drawn with what matches in them (DeepEMD, CVPR 2020, Figure 5)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.figures import layout, style
from fewshot_cli.figures.canvas import new, save, styled
from fewshot_cli.figures.layout import EDGE, LINE, Spot, Words, caption, write
from fewshot_cli.figures.panel import Flow, Panel, fade
from fewshot_cli.figures.style import SMALL

STRONGEST = 8  # flows in colour, one for each colour of the palette
FULL = 1.5  # times the mean: the weight at which an image is clear, at most
GAP, LINES_GAP, ROW_GAP = 0.2, 0.55, 0.1  # inches between columns, where lines run between them, and between rows
LARGE, MIDDLE, LARGE_ROWS = 2.0, 1.5, 2  # inches of an image's side; up to so many rows are large
MARK = 0.15  # a mark's diameter
BEND = 0.035  # how much further each line bends than the next one
Point = tuple[float, float]
VERDICTS = {
    "right": ("✓ predicted, and right", style.RIGHT, "-"),
    "wrong": ("✗ predicted, but wrong", style.WRONG, "-"),
    "truth": ("the right class", style.TRUTH, "--"),
}


def matches(path: Path, panels: list[Panel], flows: bool = False, title: str = "") -> None:
    """Write what `draw` draws. Raises `DataError` when the file cannot be written."""
    save(path, draw(panels, flows, title))


@styled
def draw(panels: list[Panel], flows: bool = False, title: str = "") -> Any:
    """A row for each pair: query, support image, and the query made of the support's best matching patches.

    Lines join the nodes of the strongest flows, in a colour and under a number for each node of the query; with
    `flows` thin lines join the nodes of all others. Fog lies where nodes have little weight. Returns a Matplotlib
    figure.
    """
    side = LARGE if len(panels) <= LARGE_ROWS else MIDDLE
    sizes = [[layout.fitted(image, side) for image in (panel.left, panel.right, panel.left)] for panel in panels]
    texts = [_captions(panel, side) for panel in panels]
    below = [0.07 + LINE * max(len(column) for column in text) for text in texts]
    heights = [max(high for _, high in row) for row in sizes]
    width = 2 * EDGE + 3 * side + LINES_GAP + GAP
    over = layout.heading_height(title, width)
    legend = _legend_lines(panels, flows, width)
    foot = 0.42 + LINE * len(legend)
    drawn = new(width, over + sum(heights) + sum(below) + ROW_GAP * (len(panels) - 1) + foot)
    layout.heading(drawn, title)
    heaviest = max(panel.heaviest() for panel in panels)
    full = min(FULL, heaviest)
    strongest = max(flow.share for panel in panels for flow in panel.flows(1))
    top = drawn.get_figheight() - over
    for panel, row, text, high, under in zip(panels, sizes, texts, heights, below, strict=True):
        columns = (EDGE, EDGE + side + LINES_GAP, EDGE + 2 * side + LINES_GAP + GAP)
        spots = [Spot(x + (side - w) / 2, top - (high + h) / 2, w, h) for x, (w, h) in zip(columns, row, strict=True)]
        _row(drawn, panel, spots, full)
        for x, column in zip(columns, text, strict=True):
            layout.write_caption(drawn, x + side / 2, top - high - 0.05, column)
        _flows(drawn, panel, spots[0], spots[1], strongest, flows)
        top -= high + under + ROW_GAP
    _legend(drawn, legend, full, heaviest, foot)
    return drawn


def _captions(panel: Panel, side: float) -> list[list[Words]]:
    """Below each image of a row: what it is."""
    left, right = (caption(text, side) for text in panel.captions)
    right.append(Words(f"similarity {panel.matching.similarity:.3f}"))
    if panel.verdict is not None:
        words, colour, _ = VERDICTS[panel.verdict]
        right += caption(words, side, colour, "bold")
    return [left, right, caption("query rebuilt from the support's patches", side, style.MUTED)]


def _row(drawn: Any, panel: Panel, spots: list[Spot], full: float) -> None:
    """The three images of a pair, the predicted and the right one in a frame."""
    left, right = panel.fogged(full)
    for number, (image, spot) in enumerate(zip((left, right, panel.rebuilt()), spots, strict=True)):
        axes = layout.axes_at(drawn, spot)
        layout.show(axes, image)
        if number == 1 and panel.verdict is not None:
            _, colour, dashes = VERDICTS[panel.verdict]
            axes.spines[:].set(visible=True, color=colour, linewidth=2, linestyle=dashes)


def _middle(spot: Spot, places: Tensor, node: int) -> Point:
    """Where the middle of a node lies."""
    left, top, wide, high = places[node].tolist()
    return spot.x + (left + wide / 2) * spot.wide, spot.y + (1 - top - high / 2) * spot.high


def _flows(drawn: Any, panel: Panel, left: Spot, right: Spot, most: float, every: bool) -> None:
    """The lines of a pair with their marks, above both images."""
    chosen = panel.flows(STRONGEST)
    nodes = sorted({flow.left for flow in chosen}, key=lambda i: _reading_order(panel.left_places[i]))
    number = {node: place for place, node in enumerate(nodes)}
    starts = dict(zip(nodes, _apart([_middle(left, panel.left_places, node) for node in nodes]), strict=True))
    ends = _apart([_middle(right, panel.right_places, flow.right) for flow in chosen])
    if every:
        for flow in panel.flows()[len(chosen) :]:
            between = _middle(left, panel.left_places, flow.left), _middle(right, panel.right_places, flow.right)
            _line(drawn, between, (style.MUTED, 0.5, 0), flow)
    for flow, end in reversed(list(zip(chosen, ends, strict=True))):
        place = number[flow.left]
        bend = BEND * ((len(nodes) - 1) / 2 - place)  # lines between nodes of one height would cover each other
        _line(drawn, (starts[flow.left], end), (style.PALETTE[place], 0.7 + 2.3 * flow.share / most, bend), flow)
    for node, start in starts.items():
        _mark(drawn, start, number[node])
    for flow, end in zip(chosen, ends, strict=True):
        _mark(drawn, end, number[flow.left])


def _reading_order(place: Tensor) -> tuple[float, float]:
    left, top, wide, high = place.tolist()
    return round(top + high / 2, 3), left + wide / 2


def _apart(points: list[Point]) -> list[Point]:
    """The points, moved as little as it takes for marks on them not to cover each other."""
    at = torch.tensor(points, dtype=torch.float64).reshape(-1, 2)
    nudge = torch.arange(len(at), dtype=torch.float64)[:, None] * torch.tensor([1e-4, 3e-5])
    at = at + nudge  # points at the same place need a direction to leave in
    for _ in range(200):
        step = at[:, None] - at[None]
        distance = step.norm(dim=2).clamp(min=1e-9).fill_diagonal_(1)
        close = (MARK * 1.02 - distance).clamp(min=0).fill_diagonal_(0)
        if not close.any():
            break
        at = at + (step / distance[..., None] * close[..., None] / 2).sum(1)
    return [(x, y) for x, y in at.tolist()]


def _line(drawn: Any, ends: tuple[Point, Point], look: tuple[str, float, float], flow: Flow) -> None:
    """A line of a colour and width that bends by so many inches, with a white casing: it is seen on any image."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve
    from matplotlib.patheffects import withStroke

    colour, wide, bend = look
    middle = (ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2 + 2 * bend
    curve = Curve([ends[0], middle, ends[1]], [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3])
    line = PathPatch(curve, fill=False, edgecolor=colour, linewidth=wide, capstyle="round", zorder=5)
    line.set(transform=drawn.dpi_scale_trans, path_effects=[withStroke(linewidth=wide + 1.4, foreground="white")])
    line.set_gid(f"flow-{flow.left}-{flow.right}")
    drawn.add_artist(line)


def _mark(drawn: Any, at: tuple[float, float], number: int) -> None:
    """The end of a line: a disc in the line's colour with the number of its node."""
    from matplotlib.patches import Circle

    disc = Circle(at, MARK / 2, facecolor=style.PALETTE[number], edgecolor="white", linewidth=0.8)
    disc.set(transform=drawn.dpi_scale_trans, zorder=6)
    drawn.add_artist(disc)
    text: dict[str, Any] = {
        "size": 6.5,
        "color": "white",
        "weight": "bold",
        "ha": "center",
        "va": "center_baseline",
        "zorder": 7,
    }
    write(drawn, at[0], at[1], str(number + 1), **text)


def _legend_lines(panels: list[Panel], every: bool, width: float) -> list[str]:
    """What lines and numbers mean."""
    shown = [len(panel.flows(STRONGEST)) for panel in panels]
    shares = [sum(flow.share for flow in panel.flows(STRONGEST)) for panel in panels]
    share = " to ".join(dict.fromkeys(f"{100 * x:.0f}" for x in (min(shares), max(shares))))
    text = (
        f"Lines: the {max(shown)} strongest flows of the optimal matching, {share} % of its mass; the wider, the more "
        "mass. A number and its colour belong to one place in the query."
    )
    text += " Thin lines: all other flows." if every else ""
    return style.wrap(text, width - 2 * EDGE, SMALL, 4).splitlines()


def _legend(drawn: Any, lines: list[str], full: float, heaviest: float, foot: float) -> None:
    """At the foot of the figure: what lines mean, and the scale of the fog over black and over white."""
    for number, line in enumerate(lines):
        write(drawn, EDGE, foot - 0.08 - number * LINE, line, size=SMALL, va="top")
    stripes = torch.tensor([0.0, 1.0])[:, None].expand(3, 2, 256)
    colours = fade(stripes, torch.linspace(0, 1, 256).expand(2, -1)).permute(1, 2, 0).numpy()
    ends = "0", f"{full:.2g}" + (" or more" if heaviest > full else "")
    layout.scale(drawn, EDGE, EDGE + 0.08, "Weight of a node, times the mean of its image:", colours, ends)
