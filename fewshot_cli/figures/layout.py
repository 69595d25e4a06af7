"""Images, captions and scales laid out on a figure in inches, so that each has its place whatever a text says."""

from typing import Any, NamedTuple

from torch import Tensor

from fewshot_cli.figures import style
from fewshot_cli.figures.style import INK, SIZE, SMALL

EDGE = 0.12  # inches around the figure
LINE = 1.25 * SMALL / 72  # of a caption
HEADING = 1.45 * (SIZE + 1) / 72  # a line of the figure's title


class Spot(NamedTuple):
    """Where something lies in the figure, in inches from its lower left corner."""

    x: float
    y: float
    wide: float
    high: float


class Words(NamedTuple):
    """A line of a caption."""

    text: str
    colour: str = INK
    weight: str = "normal"


def caption(text: str, width: float, colour: str = INK, weight: str = "normal") -> list[Words]:
    """The lines of a text in a width, each of its own lines on two at most."""
    parts = [style.wrap(part, width, SMALL, 2, weight == "bold") for part in text.splitlines()]
    return [Words(line, colour, weight) for part in parts for line in part.splitlines()]


def heading_height(title: str, width: float) -> float:
    """The inches that a title takes of a figure's height, edge included."""
    lines = _heading_lines(title, width)
    return EDGE + (HEADING * len(lines) + 0.06 if lines else 0)


def heading(figure: Any, title: str) -> None:
    """Write a figure's title at its top, on three lines at most."""
    for number, line in enumerate(_heading_lines(title, figure.get_figwidth())):
        at = figure.get_figheight() - EDGE - number * HEADING
        write(figure, EDGE, at, line, size=SIZE + 1, weight="bold", va="top")


def _heading_lines(title: str, width: float) -> list[str]:
    return style.wrap(title, width - 2 * EDGE, SIZE + 1, 3, bold=True).splitlines()


def fitted(image: Tensor, side: float) -> tuple[float, float]:
    """Width and height in inches of an image [3,H,W] whose longer side has this length."""
    high, wide = image.shape[1:]
    return side * wide / max(high, wide), side * high / max(high, wide)


def write(figure: Any, x: float, y: float, text: str, **how: Any) -> None:
    """Text at a place in inches."""
    figure.text(x, y, text, transform=figure.dpi_scale_trans, **how)


def write_caption(figure: Any, x: float, y: float, lines: list[Words]) -> None:
    """Lines below each other, in the middle of x, the first one's top at y."""
    for number, line in enumerate(lines):
        how = {"size": SMALL, "color": line.colour, "weight": line.weight, "ha": "center", "va": "top"}
        write(figure, x, y - number * LINE, line.text, **how)


def axes_at(figure: Any, spot: Spot) -> Any:
    """Axes without ticks and frame at a place."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((spot.x / width, spot.y / height, spot.wide / width, spot.high / height))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return axes


def show(axes: Any, image: Tensor) -> None:
    """Draw an image [3,H,W] in [0,1] over the whole axes."""
    axes.imshow(image.permute(1, 2, 0).clamp(0, 1).cpu().numpy(), aspect="auto")


def scale(figure: Any, x: float, y: float, words: str, colours: Any, ends: tuple[str, str], wide: float = 1.3) -> float:
    """A scale in one line: its words, the number of its low end, its colours (an array of pixels), that of its high
    end. Returns where it ends.
    """
    write(figure, x, y, words, size=SMALL, va="center")
    x += style.width(f"{words}  {ends[0]}", SMALL) + 0.06
    write(figure, x - 0.05, y, ends[0], size=SMALL, ha="right", va="center")
    axes = axes_at(figure, Spot(x, y - 0.06, wide, 0.12))
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    write(figure, x + wide + 0.05, y, ends[1], size=SMALL, va="center")
    return x + wide + 0.05 + style.width(ends[1], SMALL)
