"""The core of every command that works on images: a recipe opened once, with everything it names in place."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from fewshot_cli.config.parts import build_backbone, build_extractor, build_head
from fewshot_cli.config.schema import Recipe
from fewshot_cli.config.stages import Stage, deciding
from fewshot_cli.contracts import Backbone, Extractor, Head
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.prepare import dataset_of
from fewshot_cli.data.species import shared
from fewshot_cli.data.store import ImageSet, Split, open_store
from fewshot_cli.evaluation.external import warn_if_other_constants, warn_if_tested_on_seen
from fewshot_cli.evaluation.plugged import NOTHING, Plugged, PluggedBackbone, PluggedHead
from fewshot_cli.features.cache import cached_features, features
from fewshot_cli.runtime.console import detail, doing, say
from fewshot_cli.runtime.device import matching_device, place
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import fingerprint
from fewshot_cli.weights.find import FoundWeights, find_weights, of_module

T = TypeVar("T")


class Shared:
    """What models that are opened one after another have in common, so that each is made once.

    Of each kind (the split, the backbone in its weights, its features) the last one is kept, for the next model that
    needs the same.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}

    def get(self, kind: str, name: Any, make: Callable[[], T]) -> T:
        """The kept one if it has this name, else what `make` gives."""
        if kind not in self._kept or self._kept[kind][0] != name:
            self._kept.pop(kind, None)  # first, so that two never take up memory at once
            self._kept[kind] = (name, make())
        made: T = self._kept[kind][1]
        return made


class Model:
    """A recipe with its weights, its backbone and its head, and the features of images where the head works.

    `weights` says where the weights come from, `split` is the split of the recipe's dataset that it evaluates.
    `embedding_seconds` are those that the last call of `features` took; where it `caches`, they are kept.
    """

    weights: FoundWeights
    backbone: Backbone[Any]
    head: Head[Any]

    def __init__(self, recipe: Recipe, root: Path, processes: Processes, shared: Shared | None = None) -> None:
        self.recipe, self.root, self.processes = recipe, root, processes
        self.embedding_seconds = 0.0
        self.caches = True
        self._shared = shared

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        root: Path,
        processes: Processes,
        weights: Path | None = None,
        *,
        with_dataset: bool = False,
        plugged: Plugged = NOTHING,
        shared: Shared | None = None,
    ) -> Self:
        """The model of a recipe; `weights` is a file in place of the recipe's own, `plugged` modules in place of its
        parts. What it has in common with the model that was opened last with the same `shared` is not made again.

        Raises `DataError` when there are no weights, or when they are of another shape than the recipe's parts; and
        `with_dataset` also when the dataset is not prepared or cannot fill an episode, before it looks for weights.
        """
        model = cls(recipe, root, processes, shared)
        doing(f"opening {recipe.store} and the weights" if with_dataset else "opening the weights")
        if with_dataset:
            _ = model.sampler
        backbone: Backbone[Any]
        if plugged.backbone is not None:
            model.caches, own = False, PluggedBackbone(plugged.backbone, recipe.image.size)
            model.weights, backbone = of_module(plugged.backbone, own.name), place(own, torch.device("cpu"))
            model._warn(model.weights, with_dataset)
        else:
            model.weights, backbone = model._filled(weights, with_dataset)
        head: Head[Any]
        if plugged.head is not None:
            head = PluggedHead(plugged.head, backbone.channels)
        else:
            head = build_head(recipe.head, backbone.channels, recipe.solver)
            if head.state_dict() and not model.weights.random:
                model.weights.checkpoint.fill(head, "head", f"head {recipe.head.name}")
        model.backbone = backbone
        model.head = head.to(matching_device(head.solver, processes.device)).eval()
        detail(f"weights: {model.weights.label}, sha256 {model.weights.checkpoint.sha256[:16]}")
        detail(f"device: {model.device}, matching on {model.matching_device}")
        doing("preparing")
        return model

    def _once(self, kind: str, name: Any, make: Callable[[], T]) -> T:
        return make() if self._shared is None else self._shared.get(kind, name, make)

    def _warn(self, weights: FoundWeights, with_dataset: bool) -> None:
        warn_if_other_constants(self.recipe, weights)
        if with_dataset:
            warn_if_tested_on_seen(self.recipe, weights)

    def _filled(self, given: Path | None, with_dataset: bool) -> tuple[FoundWeights, Backbone[Any]]:
        """The weights, and the backbone that has them."""
        recipe, processes = self.recipe, self.processes

        def fill() -> tuple[FoundWeights, Backbone[Any], Tensor]:
            weights = processes.each(lambda: find_weights(recipe, given))
            self._warn(weights, with_dataset)
            backbone = build_backbone(recipe)
            if backbone.takes_features:
                backbone.channels = self.split.channels or backbone.channels
            weights.checkpoint.fill(backbone, "backbone", f"backbone {recipe.backbone.name}")
            return weights, place(backbone, torch.device("cpu")), torch.get_rng_state()

        what = recipe.resolved()
        decided_by = [what[key] for key in ("name", "dataset", "image", "backbone", "weights", "seed")]
        weights, backbone, rng = self._once("backbone", (decided_by, given, recipe.eval.split, with_dataset), fill)
        torch.set_rng_state(rng)  # a head that keeps random weights draws them next
        return weights, backbone

    @property
    def names(self) -> dict[str, str]:
        """What its backbone and its head are called in results."""
        recipe, backbone, head = self.recipe, self.backbone, self.head
        return {
            "backbone": backbone.name if isinstance(backbone, PluggedBackbone) else recipe.backbone.name,
            "head": head.name if isinstance(head, PluggedHead) else recipe.head.name,
        }

    @property
    def device(self) -> torch.device:
        """Where the backbone works."""
        return self.processes.device

    @property
    def matching_device(self) -> torch.device:
        """Where the head works: its solver may take CPU tensors only."""
        return matching_device(self.head.solver, self.device)

    @cached_property
    def split(self) -> Split:
        """The split of the recipe's dataset that it evaluates (`eval.split`)."""
        spec = self.recipe
        return self._once(
            "split",
            (spec.dataset, spec.image, self.root, spec.eval.split),
            lambda: self.processes.first(lambda: dataset_of(spec, self.root)).split(spec.eval.split),
        )

    @cached_property
    def sampler(self) -> Sampler:
        """The recipe's evaluation episodes, without classes whose species the dataset `eval.without` has too."""
        return episodes_of(self.recipe, self.split, self.root)

    @cached_property
    def extractor(self) -> Extractor[Any]:
        """How its images become local features."""
        return build_extractor(self.recipe)

    def features(self, images: ImageSet | None = None) -> Tensor:
        """Maps [N,d,h,w] of images, the split's if none are given, cached and on the head's device."""
        images = self.split if images is None else images
        if not self.caches:  # nothing tells that a module computes what it did before
            begin = perf_counter()
            maps = self.features_once(images)
            self.embedding_seconds = perf_counter() - begin
            return maps
        key = self.feature_key(images)

        def cached() -> Tensor:
            maps, self.embedding_seconds = cached_features(
                self.recipe, images, self.backbone, key, self.root, self.processes
            )
            return maps

        return self._once("features", key, cached).to(self.matching_device)

    def features_once(self, images: ImageSet) -> Tensor:
        """The same, not cached."""
        return features(self.recipe, images, self.backbone, self.processes).to(self.matching_device)

    def feature_key(self, images: ImageSet) -> str:
        """The name of the images' features in the cache: equal names mean equal features."""
        return feature_key(self.recipe, images, self.weights.checkpoint.sha256)

    @property
    def made_of(self) -> dict[str, Any]:
        """What its features depend on beside the images."""
        return {"weights": self.weights.checkpoint.sha256, **deciding(self.recipe, "features")}

    def identity(self, stage: Stage, **inputs: Any) -> dict[str, Any]:
        """What decides the result of a stage: the device, the weights, the recipe's sections and further `inputs`."""
        weights = self.weights.checkpoint.sha256
        return {"device": self.device.type, "weights": weights, "recipe": deciding(self.recipe, stage), **inputs}


def episodes_of(recipe: Recipe, split: Split, root: Path) -> Sampler:
    """A recipe's evaluation episodes on a split. Raises `DataError` when the split cannot fill one."""
    spec = recipe.episode
    if recipe.eval.without is None:
        return Sampler(split, spec.way, spec.shot, spec.query, recipe.seed)
    other = open_store(root, recipe.eval.without).index["splits"]
    gone = set(shared(split.classes, [name for part in other.values() for name in part["classes"]]))
    say(f"left out {len(gone)} of {len(split.classes)} classes, whose species {recipe.eval.without} has too")
    kept = [c for c, name in enumerate(split.classes) if name not in gone]
    return Sampler(split, spec.way, spec.shot, spec.query, recipe.seed, kept)


def feature_key(recipe: Recipe, split: ImageSet, weights: str) -> str:
    """Name of a feature set: everything it depends on, hashed."""
    drawn = recipe.seed if build_extractor(recipe).random else None
    return fingerprint(
        {
            "format": 5,
            "data": split.sha256,
            "weights": weights,
            "crop": recipe.dataset.crop,
            "seed": drawn,
            **deciding(recipe, "features"),
        }
    )
