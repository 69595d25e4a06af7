"""The figures of the theory pages: `python docs/figures.py` draws them into docs/img/, from problems that it solves.

What differs by colour also differs by line or label.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from fewshot_cli import registry, transport
from fewshot_cli.evaluation import stats
from fewshot_cli.figures import style
from fewshot_cli.figures.style import INK, PALETTE

BLUE, RED, GREEN = PALETTE[:3]
STYLE = {**style.STYLE, "text.parse_math": True, "font.size": 10, "axes.titlesize": 10, "axes.titlelocation": "left"}
COST = np.array([[0.1, 0.7, 0.9, 0.6], [0.8, 0.2, 0.5, 0.9], [0.9, 0.6, 0.3, 0.4]])
SUPPLY, DEMAND = np.array([0.45, 0.35, 0.20]), np.array([0.30, 0.30, 0.15, 0.25])


def problem(
    cost: np.ndarray, supply: np.ndarray, demand: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The value, gradients for cost, supply and demand of one transport problem, as a training step gets them."""
    given = [torch.tensor(x[None], dtype=torch.float64, requires_grad=True) for x in (cost, supply, demand)]
    value = transport.value(registry.solver("network_simplex")(), *given)
    value.sum().backward()
    return (value.item(), *(x.grad[0].numpy() for x in given))


def matching() -> Figure:
    """A transport problem of three by four nodes and its optimal flow."""
    value, flow, *_ = problem(COST, SUPPLY, DEMAND)
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    axes.set(xlim=(-0.55, 2.1), ylim=(-0.02, 1.12))
    places = []
    for x, masses, letter, colour in ((0, SUPPLY, "s", INK), (1, DEMAND, "d", INK)):
        gap = 0.06
        heights = masses * (1 - gap * (len(masses) - 1))
        tops = 1 - np.concatenate([[0], np.cumsum(heights + gap)[:-1]])
        places.append((tops, heights / masses))
        for i, (top, height, mass) in enumerate(zip(tops, heights, masses, strict=True)):
            axes.add_patch(matplotlib.patches.Rectangle((x - 0.03, top - height), 0.06, height, color=colour))
            beside = dict(ha="right" if x == 0 else "left", va="center", color=colour)
            axes.text(x - 0.07 if x == 0 else x + 0.07, top - height / 2, f"${letter}_{i + 1}$ = {mass:.2f}", **beside)
    left, right = (tops.copy() for tops, _ in places)
    for i, j in np.argwhere(flow > 1e-9):
        a, b = flow[i, j] * places[0][1][i], flow[i, j] * places[1][1][j]
        t = np.linspace(0, 1, 60)
        ease = t * t * (3 - 2 * t)
        top = left[i] + (right[j] - left[i]) * ease
        bottom = left[i] - a + (right[j] - b - left[i] + a) * ease
        axes.fill_between(0.03 + 0.94 * t, bottom, top, color=(BLUE, RED, GREEN)[i], alpha=0.25, linewidth=0)
        at = 12  # left of where they cross
        term, middle = f"{flow[i, j]:.2f} × {COST[i, j]:.1f}", (top[at] + bottom[at]) / 2
        axes.text(0.03 + 0.94 * t[at], middle, term, ha="center", va="center", fontsize=8)
        left[i] -= a
        right[j] -= b
    axes.text(-0.07, 1.08, "query: supply", ha="right", color=INK, weight="bold")
    axes.text(1.07, 1.08, "support: demand", ha="left", color=INK, weight="bold")
    axes.text(0.5, 1.08, "flow × cost", ha="center", color=INK)
    axes.text(1.55, 0.5, f"value\nΣ c x = {value:.3f}", ha="left", va="center", color=INK)
    return figure


def duals() -> Figure:
    """The value over one cost, with the flow as its slope, and over a shift of supply, with a difference of prices."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    cost_axes, mass_axes = figure.subplots(1, 2)

    def changed(c: float) -> tuple[float, float]:
        cost = COST.copy()
        cost[0, 3] = c
        value, flow, *_ = problem(cost, SUPPLY, DEMAND)
        return value, flow[0, 3]

    def moved(t: float) -> tuple[float, float]:
        value, _, price, _ = problem(COST, SUPPLY + t * np.array([1, -1, 0]), DEMAND)
        return value, price[0] - price[1]

    for axes, of, grid, at, label, title in (
        (cost_axes, changed, np.linspace(0, 1.3, 131), 0.6, "cost of moving from $s_1$ to $d_4$", "slope = flow"),
        (
            mass_axes,
            moved,
            np.linspace(-0.3, 0.3, 121),
            0.15,
            "mass moved from $s_2$ to $s_1$",
            "slope = price of $s_1$ − price of $s_2$",
        ),
    ):
        values = [of(x)[0] for x in grid]
        value, slope = of(at)
        span = 0.25 * np.ptp(grid)
        axes.plot(grid, values, color=BLUE, label="optimal value")
        near = np.array([at - span, at + span])
        axes.plot(near, value + slope * (near - at), color=RED, linestyle="--", label=f"tangent, slope {slope:.2f}")
        axes.plot([at], [value], "o", color=RED, markersize=5)
        axes.set(xlabel=label, title=title, ylim=(min(values) - 0.03, max(values) + 0.08))
        axes.legend(loc="upper left" if axes is cost_axes else "upper center", fontsize=8)
    cost_axes.set_ylabel("optimal value")
    return figure


def accuracies(head: str, folder: Path) -> list[float]:
    """Per cent correct in each of the 600 episodes of recipe glyphs_5w1s with a head."""
    run = folder / head
    words = [
        "eval",
        "--recipe",
        "glyphs_5w1s",
        "--set",
        f"head={head}",
        "--run-dir",
        str(run),
        "--data-root",
        str(folder / "data"),
    ]
    subprocess.run([sys.executable, "-m", "fewshot_cli", *words], check=True, stdout=subprocess.DEVNULL)
    lines = (run / "episodes.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["accuracy"] for line in lines]


def intervals() -> Figure:
    """How an interval narrows with the number of episodes, and what pairing gains; recipe glyphs_5w1s, two heads."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (np.array(accuracies(head, Path(folder))) for head in ("emd", "prototype"))
    scale = 100 if first.max() <= 1 else 1
    first, second = scale * first, scale * second
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    running, compared = figure.subplots(1, 2, width_ratios=[3, 2])
    counts = np.arange(10, len(first) + 1, 10)
    means, halves = np.array([stats.mean_ci95(first[:n].tolist()) for n in counts]).T
    running.fill_between(
        counts, means - halves, means + halves, color=BLUE, alpha=0.25, linewidth=0, label="95 % interval"
    )
    running.plot(counts, means, color=BLUE, label="mean so far")
    running.set(xlabel="episodes", ylabel="accuracy, per cent", title="head emd", xlim=(0, len(first)))
    running.legend(fontsize=8)
    half = [stats.mean_ci95(x.tolist())[1] for x in (first, second)]
    difference, paired = stats.paired(first.tolist(), second.tolist())
    rows = [("as if independent", float(np.hypot(*half)), RED), ("paired", paired, GREEN)]
    for y, (label, width, colour) in enumerate(rows):
        compared.errorbar(difference, y, xerr=width, fmt="o", color=colour, capsize=4)
        compared.text(difference, y + 0.13, f"{label}: ± {width:.2f}", ha="center", color=colour)
    compared.set(xlabel="emd − prototype, per cent", ylim=(-0.4, 1.5), yticks=[], title="the same 600 episodes")
    compared.spines["left"].set_visible(False)
    return figure


FIGURES = {"matching": matching, "duals": duals, "intervals": intervals}


def main(folder: Path) -> None:
    """Draw every figure."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, draw in FIGURES.items():
            draw().savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main(Path(__file__).parent / "img")
