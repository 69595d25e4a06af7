"""Curves: time over problem size, accuracy over shots, iterations and training over epochs."""

import math
from pathlib import Path
from typing import Any

from fewshot_cli.figures.canvas import save

MARKS = "osD^v<>Phx"


def complexity(path: Path, records: list[dict[str, Any]], fits: list[dict[str, Any]], title: str) -> None:
    """Seconds per problem over its size on logarithmic axes, a line per solver, with fitted exponents in the legend.

    The ending of the path decides the format (PNG, SVG, PDF). Raises `DataError` when it cannot be written.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
    ticks: set[float] = set()
    for mark, fit in zip(MARKS * 9, fits, strict=False):
        measured = [r for r in records if r["solver"] == fit["solver"] and "seconds" in r]
        points = sorted((math.sqrt(r["n"] * r["m"]), r["seconds"]) for r in measured)
        if points:
            slope = f"   n^{fit['exponent']:.2f} ± {fit['standard_error']:.2f}" if "exponent" in fit else ""
            axes.loglog(*zip(*points, strict=True), marker=mark, label=fit["solver"] + slope)
            ticks |= {x for x, _ in points}
    axes.set(xlabel="nodes per side, n", ylabel="seconds per problem", title=title)
    axes.set_xticks(sorted(ticks), [f"{x:.0f}" for x in sorted(ticks)])
    axes.minorticks_off()
    axes.grid(True, alpha=0.25)
    figure.legend(frameon=False, loc="outside right upper")
    save(path, figure)


def curves(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Accuracy over shots, a line per row with its 95 % interval (DeepEMD, CVPR 2020, Figure 4).

    The ending of the path decides the format. Raises `DataError` when it cannot be written.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for mark, row in zip(MARKS * 9, dict.fromkeys(r["row"] for r in records), strict=False):
        measured = sorted(
            (r["shot"], r["accuracy"], r["ci95"] or 0) for r in records if r["row"] == row and "accuracy" in r
        )
        if measured:
            shots, accuracy, ci95 = zip(*measured, strict=True)
            axes.errorbar(shots, accuracy, ci95, marker=mark, capsize=2, label=row)
    axes.set(xlabel="shots", ylabel="accuracy, %", title=title)
    axes.set_xticks(sorted({r["shot"] for r in records}))
    axes.grid(True, alpha=0.25)
    axes.legend(frameon=False)
    save(path, figure)


def iterations(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Mean iterations of the solver over epochs, a line per row (Multi-Proxy Wasserstein Classifier, Figure 2).

    Raises `DataError` when it cannot be written.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for mark, r in zip(MARKS * 9, (r for r in records if "iterations" in r), strict=False):
        epochs = r["iterations"]["epochs"]
        axes.plot(range(1, len(epochs) + 1), epochs, marker=mark, markersize=3, label=r["row"])
    axes.set(xlabel="epoch", ylabel="iterations per problem", title=title)
    axes.grid(True, alpha=0.25)
    axes.legend(frameon=False)
    save(path, figure)


def training(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Loss and accuracy over epochs, as a training run logged them. Raises `DataError` when it cannot be written."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot([r["epoch"] for r in records], [r["loss"] for r in records], label="training loss")
    right.plot([r["epoch"] for r in records], [r["train_accuracy"] for r in records], label="training batches")
    seen = [
        (r["epoch"], r["validation"]["accuracy"], r["validation"]["ci95"] or 0) for r in records if "validation" in r
    ]
    if seen:
        right.errorbar(*zip(*seen, strict=True), marker="o", markersize=3, capsize=2, label="validation")
    for axes, name in ((left, "cross-entropy"), (right, "accuracy, %")):
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(True, alpha=0.25)
        axes.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    save(path, figure)
