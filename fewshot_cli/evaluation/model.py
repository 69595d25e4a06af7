"""A recipe's weights, backbone and head at work on a user's own pictures."""

from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli.config.parts import build_backbone, build_head, matching_device
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Backbone, Head
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.species import shared
from fewshot_cli.data.store import Pictured, Split, open_store
from fewshot_cli.features.cache import cached_features
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.processes import World
from fewshot_cli.weights.find import FoundWeights, find_weights


class Parts:
    """Weights, backbone and head of a recipe, and the features of pictures where the head works.

    `made_for` is what a classifier learned on these features depends on.
    """

    def __init__(self, recipe: Recipe, given: Path | None, root: Path, device: torch.device) -> None:
        self.recipe, self.root, self.device = recipe, root, device
        self.weights = find_weights(recipe, given)
        self.backbone, self.head = load_parts(recipe, self.weights)
        self.home = matching_device(self.head, device)
        self.head.to(self.home).eval()
        self.made_for = {
            "weights": self.weights.checkpoint.sha256,
            **{k: recipe.resolved()[k] for k in ("backbone", "image", "extractor")},
        }
        self.embedding = 0.0

    def maps(self, pictures: Pictured) -> Tensor:
        """Maps [N,d,h,w]; `embedding` then holds the seconds they took."""
        maps, self.embedding = cached_features(
            self.recipe, pictures, self.backbone, self.made_for["weights"], self.root, World(self.device)
        )
        return maps.to(self.home)


def sampler_of(recipe: Recipe, split: Split, root: Path) -> Sampler:
    """A recipe's evaluation episodes; classes whose species the set `eval.without` has too are left out."""
    spec = recipe.episode
    if recipe.eval.without is None:
        return Sampler(split, spec.way, spec.shot, spec.query, recipe.seed)
    other = open_store(root, recipe.eval.without).index["splits"]
    gone = set(shared(split.classes, [name for part in other.values() for name in part["classes"]]))
    say(f"left out {len(gone)} of {len(split.classes)} classes, whose species {recipe.eval.without} has too")
    kept = [c for c, name in enumerate(split.classes) if name not in gone]
    return Sampler(split, spec.way, spec.shot, spec.query, recipe.seed, kept)


def load_parts(recipe: Recipe, weights: FoundWeights) -> tuple[Backbone, Head]:
    """Backbone and head of a recipe with their weights. Raises `DataError` when these are of another shape."""
    backbone = build_backbone(recipe)
    weights.checkpoint.fill(backbone, "backbone", f"backbone {recipe.backbone.name}")
    head = build_head(recipe.head, backbone.channels, recipe.solver)
    if head.state_dict():
        weights.checkpoint.fill(head, "head", f"head {recipe.head.name}")
    return backbone.to(memory_format=torch.channels_last), head
