"""What both training verbs need: decoded pictures on the device, validation by episodes, and the sidecar."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import build, evaluate
from fewshot_cli.console import progress
from fewshot_cli.contracts import Backbone, Head
from fewshot_cli.data.store import Split, Store
from fewshot_cli.episodes import Sampler
from fewshot_cli.features import embed, patches_of
from fewshot_cli.runs import versions
from fewshot_cli.schema import PartSpec, Recipe, ValidateSpec
from fewshot_cli.stats import mean_ci95


def decode(split: Split, recipe: Recipe, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N,3,side,side] on the device, and their original sizes [N,2] on the CPU."""
    with progress(f"decode {split.store}/{split.split}", len(split)) as bar:
        images, sizes = split.decode(side, recipe.dataset.crop, bar.update)
    return images.to(device), sizes


def validator(recipe: Recipe, spec: ValidateSpec, store: Store, backbone: Backbone, own: Head | None,
              device: torch.device) -> Callable[[], dict[str, float]]:  # fmt: skip
    """Accuracy and interval of fixed validation episodes with the backbone as it is.

    `own` is the head being trained; without one (pre-training) features are the maps of whole pictures, as DeepEMD's
    first stage knows no patches.
    """
    split = store.split("val")
    sampler = Sampler(split, recipe.episode.way, spec.shot, recipe.episode.query, recipe.seed)
    named: PartSpec = spec.head or recipe.head
    head = own if own is not None and named == recipe.head else build.head(named, backbone.channels, recipe.solver)
    images, sizes = decode(split, recipe, recipe.image.decoded if own is None else build.side(recipe), device)
    patches = patches_of(recipe, split, sizes) if own is not None else None

    def validate() -> dict[str, float]:
        head.eval()
        maps = embed(backbone, images, recipe.image, device, patches=patches)
        features = maps.to(build.matching_device(head, device))
        accuracies: list[float] = []
        batch = evaluate.episodes_per_call(head, sampler, features)
        evaluate.run_episodes(head, features, sampler, 0, spec.episodes, batch,
                     lambda records: accuracies.extend(r["accuracy"] for r in records))  # fmt: skip
        mean, ci95 = mean_ci95(accuracies)
        return {"accuracy": mean, "ci95": ci95}

    return validate


def sidecar(stage: str, recipe: Recipe, store: Store, parts: dict[str, Any]) -> dict[str, Any]:
    """What the weights are: stage, parts with options, data and its hash, recipe, versions and licence."""
    return {
        "stage": stage,
        **{name: {"name": spec.name, **spec.model_dump()["options"]} for name, spec in parts.items()},
        "dataset": {"name": recipe.dataset.name, "sha256": store.index["sha256"], "licence": store.index["licence"]},
        "recipe": {k: v for k, v in recipe.resolved().items() if k != "expect"},
        "versions": versions(),
        "licence": "MIT for the weights; the training pictures keep their own terms (see dataset)",
    }
