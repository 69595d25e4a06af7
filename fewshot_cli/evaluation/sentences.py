"""Results of evaluations in words, the same wherever they are printed. Importing it is cheap."""

from collections.abc import Mapping
from typing import Any

from fewshot_cli.evaluation.stats import share_ends
from fewshot_cli.runtime.render import between, plus_minus


def measured(summary: Mapping[str, Any]) -> str:
    """What was measured and over what: `68.73 ± 0.77 % over 600 episodes`, `91.50 (87.23 to 94.43) % of 200 images`."""
    if "pictures" in summary:
        return f"{between(summary['accuracy'], *ends(summary))} % of {counted(summary['pictures'], 'image')}"
    return f"{plus_minus(summary['accuracy'], summary['ci95'])} % over {counted(summary['episodes'], 'episode')}"


def sentence(summary: Mapping[str, Any]) -> str:
    """The result in a sentence: `glyphs_5w1s: 68.73 ± 0.77 % over 600 episodes, 5-way 1-shot`."""
    classes = summary.get("classes", summary.get("way"))
    task = f"{classes} classes" if "pictures" in summary else f"{summary['way']}-way {summary['shot']}-shot"
    return f"{summary['recipe']}: {measured(summary)}, {task}"


def ends(summary: Mapping[str, Any]) -> tuple[float, float]:
    """Both ends of the interval of an accuracy over images, which is not centred on it."""
    return share_ends(round(summary["accuracy"] * summary["pictures"] / 100), summary["pictures"])


def difference(first: str, second: str, mean: float, ci95: float | None, episodes: int) -> str:
    """A comparison as an equation: `A 68.73 − B 55.72 = +13.02 ± 0.66 over 600 paired episodes`."""
    return f"{first} − {second} = {plus_minus(mean, ci95, '+')} over {counted(episodes, 'paired episode')}"


def counted(number: int, thing: str) -> str:
    """A number of things: `1 episode`, `600 episodes`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
