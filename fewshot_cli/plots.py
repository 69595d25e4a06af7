"""Figures, drawn by Matplotlib without a display."""

import math
from pathlib import Path
from typing import Any

from fewshot_cli.errors import FslError
from fewshot_cli.files import guarded

MARKS = "osD^v<>Phx"
ENDINGS = (".png", ".svg", ".pdf")
MAPS = 8  # heat maps in a row, of a class with more proxies those that count most


def complexity(path: Path, records: list[dict[str, Any]], fits: list[dict[str, Any]], title: str) -> None:
    """Seconds of a problem over its size on logarithmic axes, a line a solver, with the fitted exponents in the legend.

    The ending of the path decides the format (PNG, SVG, PDF). Raises `DataError` when it cannot be written.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
    ticks: set[float] = set()
    for mark, fit in zip(MARKS * 9, fits, strict=False):
        own = [r for r in records if r["solver"] == fit["solver"] and "seconds" in r]
        points = sorted((math.sqrt(r["n"] * r["m"]), r["seconds"]) for r in own)
        if points:
            slope = f"   n^{fit['exponent']:.2f} ± {fit['standard_error']:.2f}" if "exponent" in fit else ""
            axes.loglog(*zip(*points, strict=True), marker=mark, label=fit["solver"] + slope)
            ticks |= {x for x, _ in points}
    axes.set(xlabel="nodes a side, n", ylabel="seconds a problem", title=title)
    axes.set_xticks(sorted(ticks), [f"{x:.0f}" for x in sorted(ticks)])
    axes.minorticks_off()
    axes.grid(True, alpha=0.25)
    figure.legend(frameon=False, loc="outside right upper")
    save(path, figure)


def curves(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Accuracy over shots, a line a row with its 95 % interval (DeepEMD, CVPR 2020, Figure 4).

    The ending of the path decides the format. Raises `DataError` when it cannot be written.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for mark, row in zip(MARKS * 9, dict.fromkeys(r["row"] for r in records), strict=False):
        own = sorted((r["shot"], r["accuracy"], r["ci95"]) for r in records if r["row"] == row and "accuracy" in r)
        if own:
            shots, accuracy, ci95 = zip(*own, strict=True)
            axes.errorbar(shots, accuracy, ci95, marker=mark, capsize=2, label=row)
    axes.set(xlabel="shots", ylabel="accuracy, %", title=title)
    axes.set_xticks(sorted({r["shot"] for r in records}))
    axes.grid(True, alpha=0.25)
    axes.legend(frameon=False)
    save(path, figure)


def iterations(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Mean iterations of the solver over epochs, a line a row (Multi-Proxy Wasserstein Classifier, Figure 2).

    Raises `DataError` when it cannot be written.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for mark, r in zip(MARKS * 9, (r for r in records if "iterations" in r), strict=False):
        epochs = r["iterations"]["epochs"]
        axes.plot(range(1, len(epochs) + 1), epochs, marker=mark, markersize=3, label=r["row"])
    axes.set(xlabel="epoch", ylabel="iterations of a problem", title=title)
    axes.grid(True, alpha=0.25)
    axes.legend(frameon=False)
    save(path, figure)


def training(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Loss and accuracy over epochs, as a training run logged them. Raises `DataError` when it cannot be written."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot([r["epoch"] for r in records], [r["loss"] for r in records], label="training loss")
    right.plot([r["epoch"] for r in records], [r["train_accuracy"] for r in records], label="training batches")
    seen = [(r["epoch"], r["validation"]["accuracy"], r["validation"]["ci95"]) for r in records if "validation" in r]
    if seen:
        right.errorbar(*zip(*seen, strict=True), marker="o", markersize=3, capsize=2, label="validation")
    for axes, name in ((left, "cross-entropy"), (right, "accuracy, %")):
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(True, alpha=0.25)
        axes.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    save(path, figure)


def matches(path: Path, panels: list, flows: bool) -> None:
    """A row for each `match.Panel`: left, left rebuilt from the right, right; with `flows` both again and lines
    between.

    A line joins the centres of two nodes and is as strong as the flow between them. Raises `DataError` when the file
    cannot be written.
    """
    plt = _pyplot()
    columns, width = (4, 11.5) if flows else (3, 6.6)
    ratios = [1, 1, 1, 2.1][:columns]
    figure, axes = plt.subplots(
        len(panels),
        columns,
        figsize=(width, 2.4 * len(panels)),
        layout="constrained",
        squeeze=False,
        width_ratios=ratios,
    )
    for row, panel in zip(axes, panels, strict=True):
        for axis, picture in zip(row, (panel.left, panel.rebuilt(), panel.right), strict=False):
            axis.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        row[1].set_title(panel.title, fontsize=9)
        if flows:
            _flows(row[3], panel)
        for axis in row:  # switching the axis off would leave the title out of the layout
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    save(path, figure)


def _flows(axis, panel) -> None:  # noqa: ANN001
    side = panel.left.shape[-1]
    gap = side // 10
    for picture, at in ((panel.left, 0), (panel.right, side + gap)):
        axis.imshow(
            picture.permute(1, 2, 0).clamp(0, 1).numpy(), extent=(at, at + side, side, 0), interpolation="nearest"
        )
    start, end = ((boxes[:, :2] + boxes[:, 2:] / 2) * side for boxes in (panel.left_boxes, panel.right_boxes))
    strength = panel.matching.flow / panel.matching.flow.max()
    for i, j in (panel.matching.flow > 0).nonzero().tolist():
        ends = (start[i, 0], end[j, 0] + side + gap), (start[i, 1], end[j, 1])
        axis.plot(
            *ends, color="yellow", linewidth=0.3 + 2 * float(strength[i, j]), alpha=min(1, 0.15 + float(strength[i, j]))
        )
    axis.set(xlim=(0, 2 * side + gap), ylim=(side, 0))


def correspondences(path: Path, rows: list) -> None:
    """A line for each `correspondence.Row`: the picture, its positions in the colour of the proxy that gets most of
    each, and for each proxy a map of what it gets of every position's mass, titled with its share of the logit.

    Raises `DataError` when the file cannot be written.
    """
    plt = _pyplot()
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    most = max(len(r.parts) for r in rows)
    colours = ListedColormap([plt.get_cmap("tab10" if most <= 10 else "tab20")(m % 20) for m in range(most)])
    shown = [sorted(r.parts.abs().argsort(descending=True)[:MAPS].tolist()) for r in rows]
    columns = 2 + max(map(len, shown))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.9 * columns + 0.8, 2.4 * len(rows) + 0.4), squeeze=False, layout="constrained"
    )
    for line, row, own in zip(axes, rows, shown, strict=True):
        side = row.picture.shape[-1]
        for axis in line:
            axis.imshow(row.picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        over = {"extent": (-0.5, side - 0.5, side - 0.5, -0.5), "interpolation": "nearest", "alpha": 0.6}
        line[0].set_title(row.title, fontsize=9)
        line[1].set_title("most mass to", fontsize=9)
        line[1].imshow(row.strongest().numpy(), cmap=colours, norm=BoundaryNorm(range(most + 1), most), **over)
        for axis, m, share in zip(line[2:], own, row.shares()[own].tolist(), strict=True):
            heat = axis.imshow(row.mass[..., m].numpy(), cmap="inferno", vmin=0, vmax=1, **over)
            axis.set_title(f"proxy {m + 1}: {100 * share:.0f} % of logit", fontsize=9)
    named = sorted(
        {m for row, own in zip(rows, shown, strict=True) for m in [*own, *row.strongest().unique().tolist()]}
    )
    figure.legend(
        handles=[Patch(color=colours(m), label=f"proxy {m + 1}") for m in named],
        frameon=False,
        fontsize=8,
        ncols=MAPS,
        loc="outside lower center",
    )
    figure.colorbar(heat, ax=axes[:, 2:], label="share of a position's mass", fraction=0.02)
    save(path, figure)


def alignments(path: Path, sheets: list) -> None:
    """A line for each `maps.Sheet`: query and support, heat maps of their maps and of the support's after LSC and after
    SSM, and the correlations with the query before and after LSC.

    Heat maps of a line share their scale. Raises `DataError` when the file cannot be written.
    """
    plt = _pyplot()
    names = {"query": "query's map", "before": "support's map", "after_lsc": "after LSC", "after_ssm": "after SSM"}
    figure, axes = plt.subplots(len(sheets), 8, figsize=(16, 2.3 * len(sheets)), layout="constrained", squeeze=False)
    for line, sheet in zip(axes, sheets, strict=True):
        for axis, picture, name in zip(
            line, (sheet.query, sheet.support), ("query", sheet.title or "support"), strict=False
        ):
            axis.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axis.set_title(name, fontsize=9)
        heat = sheet.heat()
        most = max(float(x.max()) for x in heat.values())
        for axis, (name, values) in zip(line[2:], heat.items(), strict=False):
            axis.imshow(values.numpy(), cmap="inferno", vmin=0, vmax=most, interpolation="nearest")
            axis.set_title(names[name], fontsize=9)
        for axis, (name, values) in zip(line[6:], sheet.correlations().items(), strict=True):
            axis.imshow(values.numpy(), cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
            axis.set_title("correlation, " + name.replace("_lsc", " LSC"), fontsize=9)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    save(path, figure)


def _pyplot():  # noqa: ANN202 - Matplotlib is imported only when something is drawn
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def check(path: Path) -> None:
    """Refuse a figure's name before the work it shows. Raises `FslError` for an ending that is not drawn."""
    if path.suffix.lower() not in ENDINGS:
        raise FslError(f"{path}: is no figure; end the name in .png, .svg or .pdf")


def save(path: Path, figure) -> None:  # noqa: ANN001
    """Write and close a figure, making its folder. Raises `DataError` when the disk refuses."""
    with guarded(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    _pyplot().close(figure)
