"""Figures, drawn by Matplotlib without a display."""

import math
from pathlib import Path
from typing import Any

from fewshot_cli.errors import DataError
from fewshot_cli.files import guarded

MARKS = "osD^v<>Phx"


def complexity(path: Path, records: list[dict[str, Any]], fits: list[dict[str, Any]], title: str) -> None:
    """Seconds of a problem over its size on logarithmic axes, a line a solver, with the fitted exponents in the legend.

    The ending of the path decides the format (PNG, SVG, PDF). Raises `DataError` when it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

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
    try:
        with guarded(path):
            figure.savefig(path, dpi=150)
    except ValueError as fault:
        raise DataError(f"{path}: {fault}; end the name in .png, .svg or .pdf") from fault
    finally:
        plt.close(figure)
