"""The one style of all figures: colours that the colour-blind tell apart, sizes that print, and names as people write
them.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

# Each has a contrast of at least 3:1 with white, and any two differ by at least 18 in CIELAB for normal sight and for
# each kind of colour blindness; the more different ones come first.
PALETTE = ("#407eee", "#ad2200", "#00974e", "#381588", "#c28600", "#a25499", "#103844", "#582114")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")  # the lines' style from the second turn of the palette on
RIGHT, WRONG, TRUTH = "#00703c", "#ad2200", "#381588"
INK, MUTED = "#1a1a1a", "#595959"
HEAT = "viridis"  # perceptually even, for the colour-blind and in grey

WIDTH = 7.0  # inches: the text of a page
SIZE, SMALL = 8.0, 7.0  # points

FONT = "DejaVu Sans"
STYLE: dict[Any, Any] = {
    "font.family": FONT,  # comes with Matplotlib, so that text has the same size everywhere
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "figure.titlesize": SIZE + 1,
    "text.color": INK,
    "text.hinting": "none",  # so that text is as wide as it was measured
    "text.parse_math": False,  # a $ in a name is a $
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.facecolor": "white",  # and not transparent, so that it can be read on a dark page
    "savefig.facecolor": "white",
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "fsl",  # the same figure is the same file
}


def look(number: int) -> dict[str, str]:
    """Colour, marker and dashes of a figure's line, by its number: no two of the first 32 look the same."""
    turn, place = divmod(number, len(PALETTE))
    return {
        "color": PALETTE[place],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


_ID = re.compile(r"^(?:n\d{8}[-_ ]+|\d{3,}[-._ ]+|\d+\. ?)(?=[^\W\d_])")  # 003.Sooty_Albatross, n02085620-Chihuahua


def plain(name: str) -> str:
    """A name of a dataset as one would write it: `003.Sooty_Albatross` is Sooty Albatross."""
    return _ID.sub("", name).replace("_", " ").strip() or name


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Names as one would write them, by name; those that would become the same stay as they are."""
    names = list(dict.fromkeys(names))
    count = Counter(map(plain, names))
    return {name: plain(name) if count[plain(name)] == 1 else name for name in names}


def wrap(text: str, room: float, size: float = SIZE, lines: int = 2, bold: bool = False) -> str:
    """Text in up to so many lines of a width in inches; what does not fit ends in an ellipsis."""
    done: list[str] = []
    rest = text.split()
    while rest:
        last = len(done) == lines - 1
        line = rest.pop(0)
        while rest and width(f"{line} {rest[0]}", size, bold) <= room:
            line += f" {rest.pop(0)}"
        if last and rest:
            line, rest = f"{line} {' '.join(rest)}", []
        if width(line, size, bold) > room:
            line, cut = _cut(line, room, size, bold, "…" if last else "")
            rest = [cut, *rest] if cut and not last else rest
        done.append(line)
    return "\n".join(done)


def _cut(line: str, room: float, size: float, bold: bool, end: str) -> tuple[str, str]:
    """The most of a line that fits with this end, and the rest of it; one character at least."""
    kept = len(line)
    while kept > 1 and width(line[:kept].rstrip() + end, size, bold) > room:
        kept -= 1
    return line[:kept].rstrip() + end, line[kept:]


@cache
def width(text: str, size: float, bold: bool = False) -> float:
    """The width of a line in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72
