"""Curves: time over problem size, accuracy over shots, iterations and training over epochs."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from fewshot_cli.figures import style
from fewshot_cli.figures.canvas import new, save, styled
from fewshot_cli.figures.style import SIZE, SMALL

HEIGHT = 3.8  # inches of a figure of one panel, at least
EDGE, GAP = 0.08, 0.12  # inches around the figure, and between a curve's end and its name
LINE, BETWEEN = 1.35 * SMALL / 72, 0.03  # of a name, and between two
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NAMES = 2.3  # inches that names may take of the width
FLOOR = 1e-8  # an error of float32's rounding or less


class End(NamedTuple):
    """Where a curve ends, its name and what else is written there, and its colour."""

    at: tuple[float, float]
    words: list[str]
    colour: str


@styled
def complexity(path: Path, records: list[dict[str, Any]], fits: list[dict[str, Any]], title: str) -> None:
    """Seconds per problem over its size on logarithmic axes, a line per solver, named at its end with the exponent that
    was fitted and its 95 % interval.

    The ending of the path decides the format (PNG, SVG, PDF). Raises `DataError` when it cannot be written.
    """
    figure, axes = _axes(title, len(fits))
    measured = [r for r in records if "seconds" in r]
    ends: list[End] = []
    ticks = sorted({math.sqrt(r["n"] * r["m"]) for r in measured})
    for fit in fits:
        points = sorted((math.sqrt(r["n"] * r["m"]), r["seconds"]) for r in measured if r["solver"] == fit["solver"])
        if points:
            look = style.look(len(ends))
            axes.loglog(*zip(*points, strict=True), **look)
            ends.append(End(points[-1], [fit["solver"].replace("_", " "), *_growth(fit)], look["color"]))
    square = all(r["n"] == r["m"] for r in measured)
    axes.set(xlabel=f"problem size {'n = m' if square else '√(n·m)'} (nodes per side)", ylabel="seconds per problem")
    axes.set_xticks(_readable(ticks), [f"{x:.0f}" for x in _readable(ticks)])
    axes.xaxis.minorticks_off()
    if ends:
        _powers(axes.yaxis, [r["seconds"] for r in measured])
    _name_ends(figure, axes, ends)
    save(path, figure)


@styled
def frontier(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Error over seconds per problem on logarithmic axes, a panel per size: a line per solver through its settings,
    from quick to accurate. Errors below `FLOOR` stand on it.

    The ending of the path decides the format (PNG, SVG, PDF). Raises `DataError` when it cannot be written.
    """
    measured = [r for r in records if "seconds" in r and r["relative_gap"] is not None]
    sizes = list(dict.fromkeys((r["n"], r["m"]) for r in measured))
    settings = dict[str, dict[str, None]]()
    for r in measured:  # what differs in one number only is a line
        settings.setdefault(r["solver"].partition("=")[0], {})[r["solver"]] = None
    names = [next(iter(each)).partition(" ")[0] if len(each) > 1 else next(iter(each)) for each in settings.values()]
    across = min(3, max(1, len(sizes)))
    down = max(1, -(-len(sizes) // across))
    figure = new(style.WIDTH, 0.9 + 2.1 * down, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, (n, m) in zip(panels, sizes, strict=False):
        for number, (name, lines) in enumerate(zip(names, settings.values(), strict=True)):
            own = [r for r in measured if (r["n"], r["m"]) == (n, m) and r["solver"] in lines]
            points = [(r["seconds"], max(abs(r["relative_gap"]), FLOOR)) for r in own]
            if points:
                axes.loglog(*zip(*points, strict=True), **style.look(number), label=name.replace("_", " "))
        axes.set_title(f"{n}×{m}")
        axes.grid(True)
    for axes in panels[len(sizes) :]:
        axes.set_axis_off()
    if sizes:
        _powers(panels[0].xaxis, [r["seconds"] for r in measured])
        _powers(panels[0].yaxis, [max(abs(r["relative_gap"]), FLOOR) for r in measured])
        known = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=4)
    for axes in panels[max(0, len(sizes) - across) : len(sizes)]:
        axes.set_xlabel("seconds per problem")
        axes.tick_params(labelbottom=True)
    for axes in panels[: len(sizes) : across]:
        axes.set_ylabel("relative error")
    figure.suptitle(style.wrap(title, style.WIDTH - 2 * EDGE, SIZE + 1), weight="bold")
    save(path, figure)


def _growth(fit: dict[str, Any]) -> list[str]:
    """The exponent that was fitted, with the 95 % interval of Student's t."""
    if "exponent" not in fit:
        return []
    power, reach = fit["exponent"], fit["exponent_ci95"]
    return [f"n^{power:.2f} (95 %: {power - reach:.2f} to {power + reach:.2f})"]


def _powers(axis: Any, values: list[float]) -> None:
    """Label a logarithmic axis with powers of ten, and with twos and fives between where it has few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    few = max(values) < 200 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))


def _power(value: float) -> str:
    """1e-4 as 10⁻⁴, and 2e-4 as 2·10⁻⁴."""
    exponent = math.floor(math.log10(value) + 1e-9)
    digit = round(value / 10.0**exponent)
    return ("" if digit == 1 else f"{digit}·") + "10" + str(exponent).translate(_RAISED)


def _readable(ticks: list[float]) -> list[float]:
    """Of places on a logarithmic axis those whose numbers do not run into each other."""
    kept: list[float] = []
    span = math.log(ticks[-1] / ticks[0]) if ticks else 0.0
    for x in ticks:
        if not kept or math.log(x / kept[-1]) > 0.07 * span:
            kept.append(x)
    return kept


@styled
def curves(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Accuracy over shots, a line per row with its 95 % interval (DeepEMD, CVPR 2020, Figure 4).

    The ending of the path decides the format. Raises `DataError` when it cannot be written.
    """
    rows = list(dict.fromkeys(r["row"] for r in records))
    figure, axes = _axes(title, len(rows))
    ends: list[End] = []
    for row in rows:
        measured = sorted(
            (r["shot"], r["accuracy"], r["ci95"] or 0) for r in records if r["row"] == row and "accuracy" in r
        )
        if measured:
            shots, accuracy, ci95 = zip(*measured, strict=True)
            look = style.look(len(ends))
            axes.errorbar(shots, accuracy, ci95, capsize=2, elinewidth=0.8, **look)
            ends.append(End((shots[-1], accuracy[-1]), [row], look["color"]))
    axes.set(xlabel="shots (support images per class)", ylabel="accuracy (%), with 95 % interval")
    axes.set_xticks(sorted({r["shot"] for r in records}))
    _name_ends(figure, axes, ends)
    save(path, figure)


@styled
def iterations(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Mean iterations of the solver over epochs, a line per row (Multi-Proxy Wasserstein Classifier, Figure 2).

    Raises `DataError` when it cannot be written.
    """
    figure, axes = _axes(title, len(records))
    ends: list[End] = []
    for r in (r for r in records if "iterations" in r):
        epochs, look = r["iterations"]["epochs"], style.look(len(ends))
        axes.plot(range(1, len(epochs) + 1), epochs, **look, markersize=3)
        ends.append(End((len(epochs), epochs[-1]), [r["row"]], look["color"]))
    axes.set(xlabel="epoch", ylabel="solver iterations per problem")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _name_ends(figure, axes, ends)
    save(path, figure)


@styled
def training(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Loss and accuracy over epochs, as a training run logged them. Raises `DataError` when it cannot be written."""
    figure = new(style.WIDTH, 2.9, layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [r["epoch"] for r in records]
    lone = {"marker": "o"} if len(epochs) == 1 else {}
    left.plot(epochs, [r["loss"] for r in records], color=style.PALETTE[0], **lone)
    batches = [r["train_accuracy"] for r in records]
    right.plot(epochs, batches, color=style.PALETTE[0], label="training batches", **lone)
    seen = [
        (r["epoch"], r["validation"]["accuracy"], r["validation"]["ci95"] or 0) for r in records if "validation" in r
    ]
    if seen:
        how = {"color": style.PALETTE[1], "marker": "s", "markersize": 3, "capsize": 2, "elinewidth": 0.8}
        right.errorbar(*zip(*seen, strict=True), **how, label="validation, with 95 % interval")
    for axes, name in ((left, "training loss (cross-entropy)"), (right, "accuracy (%)")):
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(True)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower right", ncols=2)
    figure.suptitle(style.wrap(title, style.WIDTH - 2 * EDGE, SIZE + 1), weight="bold")
    save(path, figure)


def _axes(title: str, names: int) -> tuple[Any, Any]:
    """A figure with one panel below its title, high enough for names of two lines; `_name_ends` gives the panel its
    width.
    """
    height = max(HEIGHT, 1.2 + (2 * LINE + BETWEEN) * names)
    title = style.wrap(title, style.WIDTH - 2 * EDGE, SIZE + 1, bold=True)
    figure = new(style.WIDTH, height)
    figure.text(EDGE / style.WIDTH, 1 - EDGE / height, title, size=SIZE + 1, weight="bold", va="top")
    top = EDGE + 0.19 * len(title.splitlines()) + 0.1 if title else 2 * EDGE
    axes = figure.add_axes((0.62 / style.WIDTH, 0.45 / height, 0.6, 1 - (top + 0.45) / height))
    axes.grid(True)
    return figure, axes


def _name_ends(figure: Any, axes: Any, ends: list[End]) -> None:
    """Write each curve's name, in its colour, and what else is known of it beside its end; they give way to each
    other.
    """
    from matplotlib.lines import Line2D

    if not ends:
        return
    (width, height), box = figure.get_size_inches(), axes.get_position()
    texts = [[*style.wrap(words[0], NAMES, SMALL, bold=True).splitlines(), *words[1:]] for _, words, _ in ends]
    wide = max(style.width(line, SMALL, bold=True) for text in texts for line in text)
    right = width - EDGE - wide - GAP
    axes.set_position((box.x0, box.y0, right / width - box.x0, box.height))
    axes.margins(x=0.02)
    _ = axes.viewLim  # settles the limits, on which the ends' places depend
    bottom, top = box.y0 * height, box.y1 * height
    wanted = [axes.transData.transform(point)[1] / figure.dpi for point, _, _ in ends]
    at = _stacked(wanted, [LINE * len(text) + BETWEEN for text in texts], bottom, top)
    for (point, words, colour), text, y, own in zip(ends, texts, at, wanted, strict=True):
        x, _ = axes.transData.transform(point) / figure.dpi
        leader = Line2D([x, right + GAP - 0.03], [own, y], color=colour, linewidth=0.5)
        figure.add_artist(leader).set_transform(figure.dpi_scale_trans)
        bold = len(text) - len(words) + 1
        for number, line in enumerate(text):
            name = {"color": colour, "weight": "bold"} if number < bold else {}
            place = y + LINE * ((len(text) - 1) / 2 - number)
            figure.text(right + GAP, place, line, transform=figure.dpi_scale_trans, size=SMALL, va="center", **name)


def _stacked(wanted: list[float], heights: list[float], low: float, high: float) -> list[float]:
    """Middles of texts of these heights, near the wanted ones and in their order, that do not overlap; within low and
    high where there is room.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    at = list(wanted)
    floor, ceiling = low, max(high, low + sum(heights))
    for i in order:  # up from the bottom, then down from the top
        at[i] = max(at[i], floor + heights[i] / 2)
        floor = at[i] + heights[i] / 2
    for i in reversed(order):
        at[i] = min(at[i], ceiling - heights[i] / 2)
        ceiling = at[i] - heights[i] / 2
    return at
