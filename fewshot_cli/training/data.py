"""What both training verbs need: decoded pictures, validation by episodes, and the sidecar."""

import math
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fewshot_cli import build, evaluate
from fewshot_cli.console import progress, say
from fewshot_cli.contracts import Backbone, Head
from fewshot_cli.data.store import Split, Store
from fewshot_cli.device import free_memory
from fewshot_cli.engine import World
from fewshot_cli.episodes import Sampler
from fewshot_cli.features import embed, patches_of
from fewshot_cli.files import guarded
from fewshot_cli.runs import versions
from fewshot_cli.schema import PartSpec, Recipe, ValidateSpec
from fewshot_cli.stats import mean_ci95

T = TypeVar("T")


class Pixels:
    """A split's decoded pictures [N,3,S,S] uint8 and their original sizes [N,2]: on the device when they fit, else in a
    temporary file of the data root that is mapped into memory.
    """

    def __init__(self, split: Split, recipe: Recipe, side: int, root: Path, world: World) -> None:
        shape, self.device = (len(split), 3, side, side), world.device
        size = math.prod(shape)
        self.mapped = size > room(world)
        images = None
        if self.mapped:
            say(f"note: {size / 1e9:.1f} GB of decoded pictures do not fit; they are kept in a file in {root}")
            with guarded(root), tempfile.TemporaryFile(dir=root) as file:  # no name: it is gone with the process
                os.posix_fallocate(file.fileno(), 0, size)  # a disk full later would kill the process
                images = torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=shape))
        with progress(f"decode {split.store}/{split.split}", len(split)) as bar:
            images, self.sizes = split.decode(side, recipe.dataset.crop, bar.update, into=images)
        self.images = images if self.mapped else images.to(self.device)

    def __call__(self, pick: Tensor) -> Tensor:
        """The pictures with these indices [K] (a CPU tensor), on the device: [K,3,S,S]."""
        if self.mapped:
            return self.images[pick].to(self.device)
        return self.images[pick.to(self.device)]

    def ahead(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches; those from a file are made by another thread, two ahead."""
        return _ahead(batches) if self.mapped else iter(batches)


def room(world: World) -> int:
    """Bytes that decoded pictures may take: half of what is free, of it each process's part."""
    own = free_memory(torch.device("cpu")) // 2 // world.local
    return min(own, free_memory(world.device) // 2) if world.device.type == "cuda" else own


def _ahead(batches: Iterable[T]) -> Iterator[T]:
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(2)
    stopped = threading.Event()

    def put(item: tuple[bool, Any]) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put((True, batch))
                if stopped.is_set():
                    return
            put((False, None))
        except BaseException as fault:
            put((False, fault))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            more, item = ready.get()
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stopped.set()


def validation_episodes(recipe: Recipe, spec: ValidateSpec, store: Store) -> Sampler:
    """The episodes of validation. Raises `DataError` when the split cannot fill one."""
    return Sampler(store.split("val"), recipe.episode.way, spec.shot, recipe.episode.query, recipe.seed)


def validator(
    recipe: Recipe, spec: ValidateSpec, store: Store, backbone: Backbone, own: Head | None, root: Path, world: World
) -> Callable[[], dict[str, float]]:
    """Accuracy and interval of fixed validation episodes with the backbone as it is, shared out over the processes.

    `own` is the head being trained; without one (pre-training) features are the maps of whole pictures, as DeepEMD's
    first stage knows no patches.
    """
    split, sampler = store.split("val"), validation_episodes(recipe, spec, store)
    named: PartSpec = spec.head or recipe.head
    head = own if own is not None and named == recipe.head else build.head(named, backbone.channels, recipe.solver)
    home = build.matching_device(head, world.device)
    side = recipe.image.decoded if own is None else build.side(recipe)
    pixels = world.each(lambda: Pixels(split, recipe, side, root, world))
    patches = patches_of(recipe, split.identities(), pixels.sizes) if own is not None else None

    def validate() -> dict[str, float]:
        head.eval()
        maps = embed(backbone, pixels.images, recipe.image, world, patches=patches)
        accuracies: list[float] = []
        batch = evaluate.episodes_per_call(head, sampler, maps)
        evaluate.run_episodes(
            head,
            maps.to(home),
            sampler,
            range(spec.episodes),
            batch,
            lambda records: accuracies.extend(r["accuracy"] for r in records),
            world=world,
        )
        mean, ci95 = mean_ci95(accuracies)
        return {"accuracy": mean, "ci95": ci95}

    return validate


def sidecar(stage: str, recipe: Recipe, store: Store, parts: dict[str, Any]) -> dict[str, Any]:
    """What the weights are: stage, parts with options, data and its hash, recipe, versions and licence."""
    return {
        "stage": stage,
        **{name: {"name": spec.name, **spec.model_dump()["options"]} for name, spec in parts.items()},
        "dataset": {"name": recipe.dataset.name, "sha256": store.index["sha256"], "licence": store.index["licence"]},
        "recipe": {k: v for k, v in recipe.resolved().items() if k != "expect"},
        "versions": versions(),
        "licence": "MIT for the weights; the training pictures keep their own terms (see dataset)",
    }
