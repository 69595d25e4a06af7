"""A finished evaluation opened again: its recipe, its images, its model, and answers that its records do not keep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fewshot_cli.config.load import Source, validate
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.prepare import dataset_of
from fewshot_cli.data.store import Split
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.evaluation.episodes import episodes_per_call, run_episodes
from fewshot_cli.evaluation.model import Model
from fewshot_cli.evaluation.results import EpisodeRecord
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.render import without_empty
from fewshot_cli.weights.find import find_named, find_weights


def recipe_of(config: Mapping[str, Any], where: Path) -> Recipe:
    """The recipe that a run's configuration holds. Raises `RecipeError` where it is of parts that are not installed."""
    return validate(Source(str(where), without_empty(config["recipe"]), {}))


def split_of(recipe: Recipe, config: Mapping[str, Any], root: Path) -> Split:
    """The images that a run was evaluated on. Raises `DataError` where they are not prepared, or others."""
    split = dataset_of(recipe, root).split(recipe.eval.split)
    if split.sha256 != config["identity"]["data"]:
        raise DataError(
            f"{root / recipe.store}: holds other images than those of the run; give the run's own --data-root"
        )
    return split


def model_of(
    recipe: Recipe, config: Mapping[str, Any], summary: Mapping[str, Any], root: Path, device: torch.device
) -> Model:
    """The model that a run evaluated. Raises `DataError` where its weights are not at hand."""
    label: str = summary["weights"]
    return Model.open(recipe, root, Processes(device), _weights(recipe, label, config["identity"]["weights"]))


def _weights(recipe: Recipe, label: str, digest: str) -> Path | None:
    """What `--weights` means the weights that results call by a label, None for the recipe's own."""
    place, _, name = label.partition(":")
    given = name if place == "shipped" else place if place == "own" else label
    for candidate in (given, name, None):
        try:
            found = find_weights(recipe, None) if candidate is None else find_named(recipe, candidate)
        except FslError:
            continue
        if found.checkpoint.sha256 == digest:
            return None if candidate is None else Path(candidate)
    raise DataError(f"the weights of the run ({label}) are not at hand; make the report where it was evaluated")


def answered(model: Model, records: Sequence[EpisodeRecord]) -> list[EpisodeRecord]:
    """The records with the answers to their queries: their episodes drawn again, where an earlier version kept none.

    Raises `DataError` where what is drawn again gives another accuracy than is recorded.
    """
    if all("predicted" in record for record in records):
        return list(records)
    made: list[EpisodeRecord] = []
    features = model.features()
    batch = episodes_per_call(model.head, model.sampler, features)
    name = model.split.classes.__getitem__
    run_episodes(model.head, features, model.sampler, range(len(records)), batch, made.extend, name)
    for old, new in zip(records, made, strict=True):
        if (old["classes"], old["correct"]) != (new["classes"], new["correct"]):
            raise DataError(
                f"episode {old['episode']}, drawn again, has {new['correct']} correct answers where {old['correct']} "
                "are recorded, so answers are not shown; evaluate again in another --run-dir"
            )
    return made
