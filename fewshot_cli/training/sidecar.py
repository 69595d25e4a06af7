"""What a training run records beside its weights."""

from typing import Any

from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.store import Store
from fewshot_cli.runtime.runs import versions
from fewshot_cli.weights.checkpoint import Checkpoint


def sidecar(
    stage: str, recipe: Recipe, store: Store, parts: dict[str, Any], start: Checkpoint | None
) -> dict[str, Any]:
    """What the weights are: stage, parts with options, data and its hash, all data that they or those which they
    `start` from have seen, recipe, versions and licence.
    """
    ours = f"{recipe.dataset.name}[{len(store.index['splits']['train']['classes'])} classes]"
    before = start.saw if start is not None else []
    return {
        "stage": stage,
        **{name: {"name": spec.name, **spec.model_dump()["options"]} for name, spec in parts.items()},
        "dataset": {"name": recipe.dataset.name, "sha256": store.index["sha256"], "licence": store.index["licence"]},
        "saw": [*(seen for seen in before if seen != ours), ours],
        "recipe": {k: v for k, v in recipe.resolved().items() if k != "expect"},
        "versions": versions(),
        "licence": "MIT for the weights; the training images keep their own terms (see dataset)",
    }
