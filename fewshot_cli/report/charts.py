"""The geometry of charts: what is drawn where. Templates write them as SVG.

A chart is plain data; lengths are in the units of its view box, which is about as wide as a phone, so that its letters
stay readable there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fewshot_cli.runtime.render import plus_minus

WIDTH, HEIGHT = 360.0, 216.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 10.0, 12.0, 38.0  # margins around the plot
LETTER = 6.2  # width of one at the size of labels
LABEL = 20  # letters of a row's name

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A polyline; `series` numbers its colour and dashes, `name` stands in the legend."""

    points: str
    series: int
    name: str = ""


@dataclass(frozen=True)
class Row:
    """A value with its interval, in a row of its own."""

    label: str
    full: str
    y: float
    x: float
    low: float
    high: float
    text: str


@dataclass
class Chart:
    """What is drawn: `title` and `description` say it in words."""

    title: str
    description: str
    x_label: str
    y_label: str = ""
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    bars: list[tuple[float, float, float, float, str]] = field(default_factory=list)  # x, y, width, height, words
    bands: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    rule: float | None = None  # x of a vertical line
    rows: list[Row] = field(default_factory=list)

    @property
    def legend(self) -> list[Line]:
        """The lines that have names, if there are several."""
        named = [line for line in self.lines if line.name]
        return named if len(named) > 1 else []

    @property
    def right(self) -> float:
        """Where the plot ends."""
        return self.width - RIGHT

    @property
    def bottom(self) -> float:
        """Where the plot's horizontal axis lies."""
        return self.height - BOTTOM


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from low to high."""
    step = _round_step((high - low) / count)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-12)))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= least * (1 - 1e-9))


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: round(start + (value - low) / span * (end - start), 2)


def _labels(values: Sequence[float], scale: Callable[[float], float]) -> list[tuple[float, str]]:
    return [(scale(value), f"{value:.6g}".replace("-", "−")) for value in values]


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def histogram(accuracies: Sequence[float], queries: int, mean: float) -> Chart:
    """How many episodes had which accuracy; every bin holds as many possible accuracies, which lie a query apart."""
    low, high = min(accuracies), max(accuracies)
    query = 100 / queries
    step = query * max(1, math.ceil((high - low) / 24 / query))
    begins = low - query / 2
    counts = [0] * (math.floor((high - begins) / step) + 1)
    for value in accuracies:
        counts[math.floor((value - begins) / step)] += 1
    ends = begins + len(counts) * step
    x = _scale(begins, ends, LEFT, WIDTH - RIGHT)
    y = _scale(0, max(counts), HEIGHT - BOTTOM, TOP)
    middle = sorted(accuracies)
    quarter = len(middle) // 4
    chart = Chart(
        "Episodes by accuracy",
        f"{len(accuracies)} episodes between {low:.1f} and {high:.1f} %, half of them between {middle[quarter]:.1f} "
        f"and {middle[-1 - quarter]:.1f} %. The line is the mean, {mean:.2f} %.",
        "accuracy of an episode, %",
        "episodes",
        rule=x(mean),
    )
    for i, count in enumerate(counts):
        begin, end = begins + i * step, begins + (i + 1) * step
        size = max(0.5, x(end) - x(begin) - 1)
        words = f"{begin:.1f} to {end:.1f} %: {count} episodes"
        chart.bars.append((x(begin), y(count), round(size, 2), round(HEIGHT - BOTTOM - y(count), 2), words))
    chart.x_ticks = _labels(ticks(begins, ends), x)
    chart.y_ticks = _labels([tick for tick in ticks(0, max(counts), 4) if tick == int(tick)], y)
    return chart


def running_mean(accuracies: Sequence[float]) -> Chart:
    """The mean over the first episodes, with its 95 % interval, from the second episode on."""
    n, total, squares = 0, 0.0, 0.0
    path: list[tuple[int, float, float]] = []
    every = max(1, len(accuracies) // 150)
    centre = accuracies[0]
    for value in accuracies:
        n, total, squares = n + 1, total + value - centre, squares + (value - centre) ** 2
        if n > 1 and (n % every == 0 or n in (2, len(accuracies))):
            mean = total / n
            path.append((n, centre + mean, 1.96 * math.sqrt(max(0.0, squares / n - mean**2) / n)))
    settled = [p for p in path if p[0] >= min(10, len(accuracies))]  # the first few swing wider than the rest is tall
    low, high = min(m - c for _, m, c in settled), max(m + c for _, m, c in settled)
    low, high = max(0.0, low - 1), min(100.0, high + 1)
    x, y = _scale(0, len(accuracies), LEFT, WIDTH - RIGHT), _scale(low, high, HEIGHT - BOTTOM, TOP)

    def at(n: int, value: float) -> Point:
        return x(n), y(min(high, max(low, value)))

    upper, lower = [at(n, m + c) for n, m, c in path], [at(n, m - c) for n, m, c in reversed(path)]
    last = path[-1]
    return Chart(
        "Mean over episodes so far",
        f"The mean and its 95 % interval settle at {plus_minus(last[1], last[2])} % after {last[0]} episodes.",
        "episodes",
        "accuracy, %",
        bands=[Line(_points(upper + lower), 1)],
        lines=[Line(_points([at(n, m) for n, m, _ in path]), 1)],
        x_ticks=_labels(ticks(0, len(accuracies), 4), x),
        y_ticks=_labels(ticks(low, high), y),
    )


def curves(title: str, y_label: str, series: Mapping[str, Sequence[Point]], from_zero: bool = False) -> Chart:
    """Lines over epochs."""
    kept = {name: points for name, points in series.items() if points}
    values = [value for points in kept.values() for _, value in points]
    epochs = [epoch for points in kept.values() for epoch, _ in points]
    low, high = 0.0 if from_zero else min(values), max(values)
    x = _scale(min(epochs), max(epochs), LEFT, WIDTH - RIGHT)
    y = _scale(low, high if high > low else low + 1, HEIGHT - BOTTOM, TOP)
    words = [
        f"{name or y_label}: "
        + ", ".join(f"{value:.4g} in epoch {epoch:g}" for epoch, value in dict.fromkeys([points[0], points[-1]]))
        for name, points in kept.items()
    ]
    return Chart(
        title,
        "; ".join(words) + ".",
        "epoch",
        y_label,
        lines=[
            Line(_points([(x(epoch), y(value)) for epoch, value in points]), number, name)
            for number, (name, points) in enumerate(kept.items(), 1)
        ],
        x_ticks=_labels(sorted({round(tick) for tick in ticks(min(epochs), max(epochs))}), x),
        y_ticks=_labels(ticks(low, high if high > low else low + 1), y),
    )


def intervals(title: str, x_label: str, values: Sequence[tuple[str, float, float | None]], zero: bool = False) -> Chart:
    """A row for each name with its value and interval; `zero` marks it, and keeps it in sight."""
    lows = [value - (ci95 or 0) for _, value, ci95 in values]
    highs = [value + (ci95 or 0) for _, value, ci95 in values]
    low, high = min([*lows, *([0.0] if zero else [])]), max([*highs, *([0.0] if zero else [])])
    if not zero:
        low, high = max(low, 0.0), min(high, 100.0)
    margin = (high - low or 1) * 0.04
    longest = min(LABEL, max(len(name) for name, *_ in values))
    left, height = 12 + longest * LETTER, TOP + 18 * len(values) + BOTTOM
    x = _scale(low - margin, high + margin, left, WIDTH - RIGHT)
    chart = Chart(
        title,
        "The numbers of every row are in the table below.",
        x_label,
        height=height,
        left=left,
        rule=x(0) if zero else None,
        x_ticks=_labels(ticks(low - margin, high + margin, 4), x),
    )
    for i, (name, value, ci95) in enumerate(values):
        label = name if len(name) <= LABEL else name[: LABEL - 1] + "…"
        ends = (x(max(low, value - (ci95 or 0))), x(min(high, value + (ci95 or 0))))
        text = f"{name}: {plus_minus(value, ci95, '+' if zero else '')}"
        chart.rows.append(Row(label, name, TOP + 18 * i + 9, x(value), *ends, text))
    return chart
