"""What tells a user's classes apart: a head with labelled examples, or with a layer that was learned on them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Learns
from fewshot_cli.data.store import open_store
from fewshot_cli.data.user_images import Folder, LabelledSet, Taking
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.model import Model
from fewshot_cli.evaluation.support import Examples, Score
from fewshot_cli.predict.finetune import Learner


@dataclass(frozen=True)
class Labeller:
    """The classes by name with the number of their examples, logits [N,way] of maps [N,d,h,w], and the examples where
    there are any at hand.
    """

    classes: list[str]
    counts: list[int]
    score: Score
    examples: Examples | None = None


def support_set(path: Path, recipe: Recipe, root: Path, taking: Taking) -> LabelledSet:
    """Labelled images: a folder, an archive, a CSV, or where nothing is called so a prepared dataset, as NAME or
    NAME:SPLIT (its train split, or the only one). Raises `DataError`.
    """
    name, _, split = str(path).partition(":")
    if path.exists() or not (root / name).is_dir():
        return Folder(path, "--support", recipe.image, taking)
    store = open_store(root, name)
    splits = list(store.index["splits"])
    return store.split(split or ("train" if "train" in splits else splits[0]))


def from_examples(model: Model, images: LabelledSet, where: Path) -> Labeller:
    """The labeller that a support set makes. Raises `DataError` for fewer than two classes, and for unequal numbers
    where the head needs equal ones.
    """
    if len(images.classes) < 2:
        raise DataError(f"{where}: holds one class ({images.classes[0]}); to tell classes apart takes two or more")
    counts = torch.bincount(images.labels).tolist()
    learns = isinstance(model.head, Learns) and max(counts) > 1
    if not learns and min(counts) < max(counts):
        few, many = (images.classes[counts.index(f(counts))] for f in (min, max))
        raise DataError(
            f"{where}: class {few} has {min(counts)} images, {many} has {max(counts)}; head {model.recipe.head.name} "
            "needs the same number of each; --set head=sfc takes any"
        )
    order = images.labels.argsort(stable=True)
    examples = Examples(model.features(images)[order], images.labels[order])
    return Labeller(images.classes, counts, examples.score(model.head), examples)


def from_classifier(model: Learner, path: Path) -> Labeller:
    """The labeller of a layer that `fsl finetune-sfc` learned. Raises `DataError` where it was learned otherwise."""
    classes, layer = model.classifier(path)
    learnt = partial(model.learner.score, layer[None])
    return Labeller(classes, [], lambda maps: learnt(maps[None])[0])
