"""Critical-difference diagrams: mean ranks, and which of them do not differ (Demšar, JMLR 7, 2006, Figure 1)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewshot_cli.figures.canvas import new, save, styled
from fewshot_cli.figures.style import INK, PALETTE, SIZE, WIDTH

_LINE, _BAR = PALETTE[0], PALETTE[1]


@styled
def critical_difference(
    path: Path, mean: Mapping[str, float], distance: float, alike: Sequence[tuple[float, float]], title: str
) -> None:
    """Methods at their mean ranks, the best on the left; bars join those that do not differ significantly, whose ranges
    are given as `alike`; the critical `distance` is drawn above.

    The ending of the path decides the format (PNG, SVG, PDF). Raises `DataError` when it cannot be written.
    """
    order = sorted(mean, key=lambda name: mean[name])
    half = math.ceil(len(order) / 2)
    low, high = math.floor(min(mean.values())), math.ceil(max(mean.values()))
    high = max(high, low + 1)
    first = 0.55 + 0.28 * len(alike)  # of the names' rows, below the bars
    bottom = first + 0.5 * (half - 1) + 0.4
    figure = new(WIDTH, 0.9 + 0.5 * (bottom + 1.1), layout="constrained")
    axes = figure.add_subplot()
    reach = 0.62 * (high - low)
    gap = 0.02 * reach  # between a line and what stands at its end
    axes.set(xlim=(low - reach, high + reach), ylim=(bottom, -1.1))
    axes.axis("off")
    axes.set_title(title)
    axes.plot([low, high], [0, 0], color=INK, linewidth=1)
    for tick in range(low, high + 1):
        axes.plot([tick, tick], [0, -0.12], color=INK, linewidth=1)
        axes.text(tick, -0.18, str(tick), ha="center", va="bottom", fontsize=SIZE)
    axes.plot([low, low + distance], [-0.75, -0.75], color=INK, linewidth=1.5, marker="|")
    axes.text(low + distance / 2, -0.8, f"critical difference {distance:.2f}", ha="center", va="bottom", fontsize=SIZE)
    for place, (begin, end) in enumerate(alike):
        axes.plot([begin, end], [0.25 + 0.28 * place] * 2, color=_BAR, linewidth=4, solid_capstyle="round")
    for number, name in enumerate(order):
        left = number < half
        row = first + 0.5 * (number if left else len(order) - 1 - number)
        edge, side = (low - 0.05 * reach, "right") if left else (high + 0.05 * reach, "left")
        axes.plot([mean[name], mean[name], edge], [0, row, row], color=_LINE, linewidth=1)
        text = f"{_short(name)}  {mean[name]:.2f}" if left else f"{mean[name]:.2f}  {_short(name)}"
        axes.text(edge + (-gap if left else gap), row, text, ha=side, va="center", fontsize=SIZE)
    save(path, figure)


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33]}…"
