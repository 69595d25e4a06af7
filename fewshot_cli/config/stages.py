"""Which sections of a recipe decide the result of which stage: the table behind run identities and feature caches."""

from typing import Any, Literal

from fewshot_cli.config.schema import Recipe

Stage = Literal["features", "pretrain", "metatrain", "episodes", "classification"]

ALL: tuple[Stage, ...] = ("pretrain", "metatrain", "episodes", "classification")
DECIDES: dict[str, tuple[Stage, ...]] = {
    "dataset": ALL,
    "image": ("features", *ALL),
    "backbone": ("features", *ALL),
    "extractor": ("features", *ALL),
    "head": ALL,
    "solver": ALL,
    "seed": ALL,
    "episode": ("pretrain", "metatrain", "episodes"),
    "eval": ("episodes", "classification"),
    "pretrain": ("pretrain", "classification"),
    "metatrain": ("metatrain",),
    "weights": (),  # by name; runs record the hash of the weights themselves
}


def deciding(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """The sections of a recipe that decide a stage's result, as plain data with every default.

    Raises `KeyError` for a section that the table does not name.
    """
    return {section: value for section, value in recipe.identity().items() if stage in DECIDES[section]}
