"""The command that usually follows a recipe that was written, or data that were prepared, and what is in its way."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # importing it would import pydantic for --help
    from fewshot_cli.config.schema import Recipe


class SplitSize(NamedTuple):
    """How many classes a split has, and how many images the smallest of them."""

    classes: int
    smallest: int


def for_recipe(name_or_path: str, recipe: "Recipe", root: Path, source: Path | None = None) -> str:
    """The first command that a recipe still needs: prepare its data (from a `source`, if that is known), train weights,
    or evaluate.
    """
    from fewshot_cli import registry
    from fewshot_cli.weights.at_hand import at_hand

    dataset, builder = recipe.dataset.name, registry.dataset(recipe.dataset.name)
    if not builder.embedded and not (root / recipe.store).is_dir():
        given = f" --from {source}" if source else "" if builder.urls else " --from FOLDER"
        return f"fsl prepare {dataset}{given}" + (f" --name {recipe.store}" if recipe.store != dataset else "")
    return f"fsl {'pretrain' if at_hand(recipe) is None else 'eval'} --recipe {name_or_path}"


def for_data(dataset: str, store: str, splits: Mapping[str, SplitSize]) -> tuple[list[str], str | None]:
    """Why a store that was just prepared cannot be evaluated as its usual recipe says, in sentences, and the command
    that does it all the same; None where no recipe is for it.
    """
    recipe, at_hand = _usual_recipe(dataset)
    if recipe is None:
        return [], None
    sets = [f"dataset.store={store}"] if store != recipe.store else []
    notes: list[str] = []
    if recipe.eval.protocol == "episodes":
        notes, fitting = _misfits(recipe, splits)
        sets += fitting
    if recipe.eval.protocol == "episodes" and splits.get(recipe.eval.split, SplitSize(0, 0)).classes < 2:
        return notes, None
    verb = "eval" if at_hand else "pretrain"
    return notes, " ".join([f"fsl {verb} --recipe {recipe.name}", *(f"--set {text}" for text in sets)])


def _misfits(recipe: "Recipe", splits: Mapping[str, SplitSize]) -> tuple[list[str], list[str]]:
    """What the splits are too small for, in sentences, and the overrides with which the split that is evaluated will
    do.
    """
    episode, tested = recipe.episode, recipe.eval.split
    needed = {"train": recipe.metatrain.way, "val": episode.way, "test": episode.way}
    used = {"train": "training by episodes", "val": "validation while training", "test": "evaluation"}
    notes, sets = [], []
    for split, way in needed.items():
        classes, smallest = splits.get(split, SplitSize(0, 0))
        if classes < way:
            has = f"{classes} class{'' if classes == 1 else 'es'}" if classes else "no classes"
            notes.append(
                f"split {split} has {has}, too few for {used[split]}: the episodes of {recipe.name} are {way}-way"
            )
            if split == tested and classes >= 2:
                sets.append(f"episode.way={classes}")
        if split == tested and 0 < smallest < episode.shot + episode.query:
            notes.append(
                f"the smallest class of split {split} has {smallest} images, too few for {episode.shot} support and "
                f"{episode.query} query images of {recipe.name}"
            )
            if smallest > episode.shot:
                sets.append(f"episode.query={smallest - episode.shot}")
    return notes, sets


def _usual_recipe(dataset: str) -> tuple["Recipe | None", bool]:
    """The first installed recipe of a dataset whose final weights are at hand, and True; else the first one."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.config.places import recipes_of
    from fewshot_cli.weights.at_hand import at_hand

    names = sorted(recipes_of(dataset), key=lambda name: (len(name), name))
    for name in names:
        if at_hand(recipe := load_recipe(name)) is not None:
            return recipe, True
    return (load_recipe(names[0]), False) if names else (None, False)
