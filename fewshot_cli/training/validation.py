"""Few-shot validation during training: fixed episodes of the split `val` with the modules as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fewshot_cli.config.parts import build_head
from fewshot_cli.config.schema import Recipe, ValidateSpec
from fewshot_cli.contracts import Backbone, Head
from fewshot_cli.data.pixels import Pixels
from fewshot_cli.evaluation.episodes import episodes_per_call, run_episodes
from fewshot_cli.evaluation.model import Model
from fewshot_cli.evaluation.results import EpisodeRecord, Validation
from fewshot_cli.evaluation.stats import mean_ci95
from fewshot_cli.features.embed import CutPatches, Views, WholeImages, embed
from fewshot_cli.runtime.processes import Processes


def validation_model(
    recipe: Recipe,
    spec: ValidateSpec,
    root: Path,
    processes: Processes,
    backbone: Backbone[Any],
    head: Head[Any] | None = None,
) -> Model:
    """The recipe as it is validated: on the split `val`, with the shots and the head of `spec`.

    `head` is the one in training; it is used if `spec` names no other. Raises `DataError` when the split cannot fill an
    episode.
    """
    changes = {
        "eval": recipe.eval.model_copy(update={"split": "val", "episodes": spec.episodes, "without": None}),
        "episode": recipe.episode.model_copy(update={"shot": spec.shot}),
        "head": spec.head or recipe.head,
    }
    model = Model(recipe.model_copy(update=changes), root, processes)
    _ = model.sampler
    model.backbone = backbone
    if head is None or model.recipe.head != recipe.head:
        head = build_head(model.recipe.head, backbone.channels, recipe.solver)
    model.head = head
    model.head.to(model.matching_device)
    return model


def validator(model: Model, whole_images: bool, half: bool) -> Callable[[], Validation]:
    """Accuracy and interval of the model's episodes with its modules as they are, shared out over the processes.

    `whole_images`: features are the maps of whole images whatever the recipe's extractor, as in pre-training, which
    knows no patches (DeepEMD, section 4.1). `half`: the backbone computes in bf16, as it does in training.
    """
    recipe, processes, head = model.recipe, model.processes, model.head
    views: Views
    if whole_images or not model.extractor.patches:
        side = recipe.image.decoded
        pixels = processes.each(lambda: Pixels(model.split, recipe, side, model.root, processes))
        views = WholeImages(pixels.images, recipe.image, processes.device)
    else:
        views = CutPatches(model.split, recipe, processes, keep=True)

    def validate() -> Validation:
        head.eval()
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=half):
            maps = embed(model.backbone, views, processes).to(model.matching_device)
        records: list[EpisodeRecord] = []
        numbers, batch = range(recipe.eval.episodes), episodes_per_call(head, model.sampler, maps)
        run_episodes(head, maps, model.sampler, numbers, batch, records.extend, processes=processes)
        mean, ci95 = mean_ci95([record["accuracy"] for record in records])
        return {"accuracy": mean, "ci95": ci95}

    return validate
