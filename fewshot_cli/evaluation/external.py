"""What weights have seen beside a recipe's own data, which results must say."""

from typing import TypedDict

from fewshot_cli import registry
from fewshot_cli.config.schema import Recipe
from fewshot_cli.runtime.console import say
from fewshot_cli.weights.find import FoundWeights


class Seen(TypedDict):
    """Fields of a result: all data that the weights were trained on, and those that are not the recipe's dataset."""

    saw: list[str]
    external: list[str]


def seen(recipe: Recipe, weights: FoundWeights) -> Seen:
    """What a result says of its weights' data."""
    saw = weights.checkpoint.saw
    return {"saw": saw, "external": [name for name in saw if name.partition("[")[0] != recipe.dataset.name]}


def warn_if_tested_on_seen(recipe: Recipe, weights: FoundWeights) -> None:
    """Say when the weights have seen a collection that holds the classes they are tested on."""
    within = registry.dataset(recipe.dataset.name).within
    if known := [name for name in weights.checkpoint.saw if name in within]:
        say(
            f"WARNING: {weights.label} has seen {known[0]}, which holds the test classes of {recipe.dataset.name}: "
            "they are not new to it, and the accuracy is not one of few-shot learning"
        )


def warn_if_other_constants(recipe: Recipe, weights: FoundWeights) -> None:
    """Say when images are standardised otherwise than the weights were trained with."""
    sidecar = weights.checkpoint.sidecar
    made = sidecar.get("image") or (sidecar.get("recipe") or {}).get("image") or {}
    for key in ("mean", "std"):
        theirs, ours = made.get(key), getattr(recipe.image, key)
        if isinstance(theirs, (list, tuple)) and any(abs(a - b) > 1e-3 for a, b in zip(theirs, ours, strict=False)):
            say(
                f"WARNING: {weights.label} was trained with image.{key} {_shown(theirs)}, recipe {recipe.name} has "
                f"{_shown(ours)}; --set image.{key}={_shown(theirs)}"
            )


def _shown(values: tuple[float, ...] | list[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"
