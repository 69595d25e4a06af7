"""The installed recipes by their content: dataset, backbone, task and head, whatever their names."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fewshot_cli import registry
from fewshot_cli.config.load import default_part, load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.config.places import installed_recipes
from fewshot_cli.config.schema import Recipe
from fewshot_cli.config.stages import deciding
from fewshot_cli.errors import FslError, RecipeError
from fewshot_cli.runtime.console import say
from fewshot_cli.weights.find import find_weights

HEADS = {1: "emd", 5: "sfc"}  # DeepEMD's by shots: a support image itself, or a layer learned from several
BACKBONE = "resnet12"  # DeepEMD's


@dataclass(frozen=True)
class Pair:
    """DeepEMD's recipes for one dataset and backbone, which share all that training depends on."""

    one_shot: Recipe
    five_shot: Recipe


@cache
def _installed() -> tuple[Recipe, ...]:
    return tuple(load_recipe(name) for name in installed_recipes())


def _deepemd(shot: int) -> list[Recipe]:
    """The installed recipes of 5-way episodes with DeepEMD's head for so many shots, sorted by name."""
    return [
        recipe
        for recipe in _installed()
        if recipe.eval.protocol == "episodes"
        and not registry.backbone(recipe.backbone.name).pretrained  # on data that no paper's protocol has
        and (recipe.episode.way, recipe.episode.shot) == (5, shot)
        and recipe.head.name == HEADS[shot]
    ]


@cache
def pairs() -> dict[str, Pair]:
    """DeepEMD's pairs, sorted by name: `<dataset>`, or `<dataset>_<backbone>` with another backbone than the main one.

    The main backbone of a dataset is the paper's, or the only one that there is. What the weights' name has after
    dataset and backbone, such as `_paper`, is at the end of the pair's too: it tells apart what differs in training.
    Both recipes of a pair have heads with default options, whose local features are the positions of the map.
    """
    plain = {shot: [recipe for recipe in _deepemd(shot) if _is_plain(recipe)] for shot in HEADS}
    matched = [Pair(one, five) for one in plain[1] for five in plain[5] if _trained_alike(one, five)]
    datasets = [pair.one_shot.dataset.name for pair in matched]
    out = {}
    for pair, dataset in zip(matched, datasets, strict=True):
        backbone = pair.one_shot.backbone.name
        main = backbone == BACKBONE or datasets.count(dataset) == 1
        begin, weights = f"{dataset}_{backbone}_", pair.one_shot.weights or ""
        variant = weights[len(begin) - 1 :] if weights.startswith(begin) else ""
        out[(dataset if main else f"{dataset}_{backbone}") + variant] = pair
    return dict(sorted(out.items()))


def _is_plain(recipe: Recipe) -> bool:
    return recipe.head == default_part("heads", recipe.head.name) and recipe.extractor.name == "fcn"


def _trained_alike(one: Recipe, five: Recipe) -> bool:
    def decides(recipe: Recipe) -> dict[str, object]:
        sections = {**deciding(recipe, "pretrain"), **deciding(recipe, "metatrain")}
        return {k: v for k, v in sections.items() if k not in ("head", "episode")}

    return one.weights == five.weights and decides(one) == decides(five)


def recipe_for(dataset: str, weights: Path | None) -> str:
    """The 1-shot EMD recipe of a dataset: the first whose backbone has weights at hand (those given), else the first.

    Raises `RecipeError` when no recipe is for the dataset.
    """
    known = [recipe for recipe in _deepemd(1) if recipe.dataset.name == dataset]
    if not known:
        raise RecipeError(
            f"--dataset {dataset}: no recipe {dataset}_5w1s is installed; `fsl list recipes` shows those that "
            "are, or give --recipe with a 1-shot recipe of your own"
        )
    for recipe in known:
        try:
            checkpoint = find_weights(recipe, weights).checkpoint
            checkpoint.fill(build_backbone(recipe), "backbone", f"backbone {recipe.backbone.name}")
        except FslError:
            continue
        if recipe is not known[0]:
            say(
                f"recipe: {recipe.name}, since {known[0].name} has no weights here"
                if weights is None
                else f"recipe: {recipe.name}, whose backbone these weights are for"
            )
        return recipe.name
    return known[0].name
