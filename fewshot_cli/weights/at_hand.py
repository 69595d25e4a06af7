"""For which recipes weights are at hand, told without opening them."""

from fewshot_cli import registry
from fewshot_cli.config.schema import OWN, Recipe
from fewshot_cli.errors import RecipeError
from fewshot_cli.runtime.runs import newest_finished
from fewshot_cli.weights import installed
from fewshot_cli.weights.find import HUB, NONE, TIMM


def at_hand(recipe: Recipe) -> str | None:
    """Where `find_weights` would take a recipe's weights from: `shipped`, the name of an installed package, `own`,
    `hub` (downloaded on first use), `random`, or the folder of a run; with `pretrain only: ` before it where these are
    not the final ones. None where there are none.
    """
    name = recipe.weights or recipe.name
    if name == OWN or name.startswith(TIMM):
        return OWN if _brought(recipe) else None
    if name == NONE:
        return "random"
    if name.startswith(HUB):
        return "hub"
    if name in installed.names():
        return _package(name)
    for stage, before in (("metatrain", ""), ("pretrain", "pretrain only: ")):
        if (run := newest_finished(stage, name)) is not None:
            return f"{before}{run}"
    if f"{name}_pretrain" in installed.names():
        return f"pretrain only: {_package(f'{name}_pretrain')}"
    return None


def _brought(recipe: Recipe) -> bool:
    """Whether the backbone's own weights can be had here."""
    try:
        return registry.backbone(recipe.backbone.name).lacking(recipe.backbone.options) is None
    except RecipeError:
        return False


def _package(name: str) -> str:
    entry = registry.entries("weights")[name]
    return "shipped" if entry.built_in else entry.package
