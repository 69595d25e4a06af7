"""Reliability diagrams: how often answers of a probability are right (Guo et al., ICML 2017, Figure 1)."""

from pathlib import Path
from typing import Any

from fewshot_cli.figures.canvas import save

_WORDS = {"before": "softmax as it is", "after": "calibrated"}
_COLOURS = {"before": "#d55e00", "after": "#0072b2"}  # told apart by the colour-blind too


def reliability(path: Path, bins: dict[str, list[dict[str, Any]]], title: str) -> None:
    """The share that is right over the mean probability of each interval, a panel before calibration and one after; the
    area of a mark is the number of its images. Raises `DataError` when it cannot be written.
    """
    plt = _pyplot()
    figure, panels = plt.subplots(1, len(bins), figsize=(4.2 * len(bins), 4.2), layout="constrained", squeeze=False)
    figure.suptitle(title)
    for axes, (name, found) in zip(panels[0], bins.items(), strict=True):
        total = sum(one["images"] for one in found)
        x, y = ([one[key] for one in found] for key in ("probability", "right"))
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
        axes.plot(x, y, color=_COLOURS[name], linewidth=1)
        axes.scatter(x, y, s=[20 + 800 * one["images"] / total for one in found], color=_COLOURS[name], alpha=0.6)
        axes.set(xlim=(0, 1.03), ylim=(-0.03, 1.03), xlabel="probability", ylabel="share right", title=_WORDS[name])
        axes.grid(True, alpha=0.25)
    save(path, figure)
