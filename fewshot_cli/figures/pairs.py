"""Pairs of images drawn with what matches in them (DeepEMD, CVPR 2020, Figure 5)."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot_cli.figures import style
from fewshot_cli.figures.canvas import new, save, styled
from fewshot_cli.figures.panel import Flow, Panel, fade
from fewshot_cli.figures.style import SIZE, SMALL

STRONGEST = 8  # flows in colour, one for each colour of the palette
FULL = 1.5  # times the mean: the weight at which an image is clear, at most
EDGE, GAP, LINES_GAP, ROW_GAP = 0.12, 0.2, 0.55, 0.1  # inches around, and between images: columns, lines, rows
LARGE, MIDDLE, LARGE_ROWS = 2.0, 1.5, 2  # inches of an image's side; up to so many rows are large
LINE = 1.25 * SMALL / 72  # of a caption
MARK = 0.15  # a mark's diameter
BEND = 0.035  # how much further each line bends than the next one
Point = tuple[float, float]
VERDICTS = {
    "right": ("✓ predicted, and right", style.RIGHT, "-"),
    "wrong": ("✗ predicted, but wrong", style.WRONG, "-"),
    "truth": ("the right class", style.TRUTH, "--"),
}


class Spot(NamedTuple):
    """Where an image lies in the figure, in inches from its lower left corner."""

    x: float
    y: float
    wide: float
    high: float

    def at(self, places: Tensor, node: int) -> Point:
        """The middle of a node."""
        left, top, wide, high = places[node].tolist()
        return self.x + (left + wide / 2) * self.wide, self.y + (1 - top - high / 2) * self.high


def matches(path: Path, panels: list[Panel], flows: bool = False, title: str = "") -> None:
    """Write the figure that `figure` draws. Raises `DataError` when the file cannot be written."""
    save(path, figure(panels, flows, title))


@styled
def figure(panels: list[Panel], flows: bool = False, title: str = "") -> Any:
    """A row for each pair: query, support image, and the query made of the support's best matching patches.

    Lines join the nodes of the strongest flows, in a colour and under a number for each node of the query; with
    `flows` thin lines join the nodes of all others. Fog lies where nodes have little weight. Returns a Matplotlib
    figure.
    """
    side = LARGE if len(panels) <= LARGE_ROWS else MIDDLE
    sizes = [[_fitted(image, side) for image in (panel.left, panel.right, panel.left)] for panel in panels]
    texts = [_captions(panel, side) for panel in panels]
    below = [0.07 + LINE * max(len(column) for column in text) for text in texts]
    heights = [max(high for _, high in row) for row in sizes]
    width = 2 * EDGE + 3 * side + LINES_GAP + GAP
    heading = style.wrap(title, width - 2 * EDGE, SIZE + 1, 3, bold=True)
    over = EDGE + (0.19 * len(heading.splitlines()) + 0.06 if heading else 0)
    legend = _legend_lines(panels, flows, width)
    foot = 0.5 + LINE * len(legend)
    drawn = new(width, over + sum(heights) + sum(below) + ROW_GAP * (len(panels) - 1) + foot)
    if heading:
        _write(drawn, EDGE, drawn.get_figheight() - EDGE, heading, size=SIZE + 1, weight="bold", va="top")
    full = min(FULL, max(panel.heaviest() for panel in panels))
    strongest = max(flow.share for panel in panels for flow in panel.flows(1))
    top = drawn.get_figheight() - over
    for panel, row, text, high, under in zip(panels, sizes, texts, heights, below, strict=True):
        columns = (EDGE, EDGE + side + LINES_GAP, EDGE + 2 * side + LINES_GAP + GAP)
        spots = [Spot(x + (side - w) / 2, top - (high + h) / 2, w, h) for x, (w, h) in zip(columns, row, strict=True)]
        _row(drawn, panel, spots, full)
        for x, column in zip(columns, text, strict=True):
            _caption(drawn, x + side / 2, top - high - 0.05, column)
        _flows(drawn, panel, spots[0], spots[1], strongest, flows)
        top -= high + under + ROW_GAP
    _legend(drawn, legend, full, width, foot)
    return drawn


def _fitted(image: Tensor, side: float) -> tuple[float, float]:
    """Width and height in inches of an image whose longer side has this length."""
    high, wide = image.shape[1:]
    return side * wide / max(high, wide), side * high / max(high, wide)


def _captions(panel: Panel, side: float) -> list[list[tuple[str, str, str]]]:
    """Below each image of a row: lines with their colour and weight."""
    left, right = ([(line, style.INK, "normal") for line in _lines(text, side)] for text in panel.captions)
    right.append((f"similarity {panel.matching.similarity:.3f}", style.INK, "normal"))
    if panel.verdict is not None:
        words, colour, _ = VERDICTS[panel.verdict]
        right += [(line, colour, "bold") for line in _lines(words, side, bold=True)]
    made = "query rebuilt from patches of the image beside it"
    return [left, right, [(line, style.MUTED, "normal") for line in _lines(made, side)]]


def _lines(text: str, width: float, bold: bool = False) -> list[str]:
    return [line for part in text.splitlines() for line in style.wrap(part, width, SMALL, 2, bold).splitlines()]


def _write(drawn: Any, x: float, y: float, text: str, **how: Any) -> None:
    """Text at a place in inches."""
    drawn.text(x, y, text, transform=drawn.dpi_scale_trans, **how)


def _caption(drawn: Any, x: float, y: float, lines: list[tuple[str, str, str]]) -> None:
    for number, (line, colour, weight) in enumerate(lines):
        _write(drawn, x, y - number * LINE, line, size=SMALL, color=colour, weight=weight, ha="center", va="top")


def _row(drawn: Any, panel: Panel, spots: list[Spot], full: float) -> None:
    """The three images of a pair, the predicted and the right one in a frame."""
    left, right = panel.fogged(full)
    for number, (image, spot) in enumerate(zip((left, right, panel.rebuilt()), spots, strict=True)):
        axes = _axes(drawn, spot)
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).cpu().numpy(), aspect="auto")
        if number == 1 and panel.verdict is not None:
            _, colour, dashes = VERDICTS[panel.verdict]
            axes.spines[:].set(visible=True, color=colour, linewidth=2, linestyle=dashes)


def _axes(drawn: Any, spot: Spot) -> Any:
    """Axes without ticks at a place in inches."""
    width, height = drawn.get_size_inches()
    axes = drawn.add_axes((spot.x / width, spot.y / height, spot.wide / width, spot.high / height))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def _flows(drawn: Any, panel: Panel, left: Spot, right: Spot, most: float, every: bool) -> None:
    """The lines of a pair with their marks, above both images."""
    chosen = panel.flows(STRONGEST)
    nodes = sorted({flow.left for flow in chosen}, key=lambda i: _reading_order(panel.left_places[i]))
    number = {node: place for place, node in enumerate(nodes)}
    starts = dict(zip(nodes, _apart([left.at(panel.left_places, node) for node in nodes]), strict=True))
    ends = _apart([right.at(panel.right_places, flow.right) for flow in chosen])
    if every:
        for flow in panel.flows()[len(chosen) :]:
            between = left.at(panel.left_places, flow.left), right.at(panel.right_places, flow.right)
            _line(drawn, between, (style.MUTED, 0.5, 0), flow)
    for flow, end in reversed(list(zip(chosen, ends, strict=True))):
        place = number[flow.left]
        bend = BEND * ((len(nodes) - 1) / 2 - place)  # lines between nodes of one height would cover each other
        _line(drawn, (starts[flow.left], end), (style.PALETTE[place], 0.7 + 2.3 * flow.share / most, bend), flow)
    for node, place in starts.items():
        _mark(drawn, place, number[node])
    for flow, place in zip(chosen, ends, strict=True):
        _mark(drawn, place, number[flow.left])


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
    from matplotlib.patheffects import withStroke
    from matplotlib.path import Path as Curve

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
    text = {"size": 6.5, "color": "white", "weight": "bold", "ha": "center", "va": "center_baseline", "zorder": 7}
    _write(drawn, *at, str(number + 1), **text)


def _legend_lines(panels: list[Panel], every: bool, width: float) -> list[str]:
    """What lines and numbers mean."""
    shown = [len(panel.flows(STRONGEST)) for panel in panels]
    shares = [sum(flow.share for flow in panel.flows(STRONGEST)) for panel in panels]
    share = " to ".join(dict.fromkeys(f"{100 * x:.0f}" for x in (min(shares), max(shares))))
    text = (
        f"Lines: the {max(shown)} strongest flows of the optimal matching, {share} % of its mass; the wider, the more "
        "flows. A number and its colour belong to one place in the query."
    )
    text += " Thin grey lines: all other flows." if every else ""
    return style.wrap(text, width - 2 * EDGE, SMALL, 4).splitlines()


def _legend(drawn: Any, lines: list[str], full: float, width: float, foot: float) -> None:
    """At the foot of the figure: what lines mean, and the scale of the fog."""
    for number, line in enumerate(lines):
        _write(drawn, EDGE, foot - 0.12 - number * LINE, line, size=SMALL, color=style.INK, va="top")
    words = "Weight of a node, times the mean of its image:"
    y, x, wide = EDGE + 0.02, EDGE + style._wide(words, SMALL, False) + 0.2, 1.5
    _write(drawn, EDGE, y + 0.06, words, size=SMALL, va="center")
    steps = torch.linspace(0, 1, 256).expand(2, -1)
    stripes = torch.tensor([0.0, 1.0])[:, None].expand(3, 2, 256)
    axes = _axes(drawn, Spot(x, y, wide, 0.12))
    axes.imshow(fade(stripes, steps).permute(1, 2, 0).numpy(), aspect="auto", interpolation="nearest")
    _write(drawn, x - 0.05, y + 0.06, "0", size=SMALL, ha="right", va="center")
    _write(drawn, x + wide + 0.05, y + 0.06, f"{full:.2g} or more", size=SMALL, va="center")
