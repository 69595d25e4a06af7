"""Reliability diagrams: how often answers of a probability are right (Guo et al., ICML 2017, Figure 1)."""

from pathlib import Path
from typing import Any

from fewshot_cli.figures import style
from fewshot_cli.figures.canvas import new, save, styled

_PANELS = {"before": ("softmax as it is", style.PALETTE[1]), "after": ("calibrated", style.PALETTE[0])}


@styled
def reliability(path: Path, bins: dict[str, list[dict[str, Any]]], title: str) -> None:
    """The share that is right over the mean probability of each interval, a panel before calibration and one after; the
    area of a mark is the number of its images. Raises `DataError` when it cannot be written.
    """
    figure = new(style.WIDTH, 3.9, layout="constrained")
    figure.suptitle(style.wrap(title, style.WIDTH - 0.3, style.SIZE + 1, bold=True), weight="bold")
    panels = figure.subplots(1, len(bins), squeeze=False)[0]
    for axes, (name, found) in zip(panels, bins.items(), strict=True):
        words, colour = _PANELS[name]
        total = sum(one["images"] for one in found)
        x, y = ([one[key] for one in found] for key in ("probability", "right"))
        axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle="--", label="as often right as it says")
        axes.plot(x, y, color=colour, linewidth=1)
        areas = [20 + 500 * one["images"] / total for one in found]
        axes.scatter(x, y, s=areas, color=colour, alpha=0.6, edgecolors="white", label="area: number of images")
        axes.set(xlim=(-0.03, 1.06), ylim=(-0.03, 1.06), xlabel="mean probability of the answers", title=words)
        axes.set(aspect="equal", ylabel="share of them that is right")
        axes.grid(True)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, markerscale=0.4)
    save(path, figure)
