"""Embed a split once; the cache every evaluation reads."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewshot_cli.config.parts import build_extractor
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Backbone
from fewshot_cli.data.store import ImageSet, Split
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.features.embed import CutPatches, DecodedImages, Views, embed
from fewshot_cli.runtime.console import detail, progress, say
from fewshot_cli.runtime.files import atomic, regular
from fewshot_cli.runtime.processes import Processes


def cached_features(
    recipe: Recipe, split: ImageSet, backbone: Backbone, key: str, root: Path, processes: Processes
) -> tuple[Tensor, float]:
    """Features [N,d,h,w] of a split and the seconds it took to have them; kept under `<root>/features`.

    If the cache cannot be written, a note on stderr says so and the features are not kept.
    """
    start, device = perf_counter(), processes.device
    if backbone.takes_features:  # there is nothing to compute and keep
        return features(recipe, split, backbone, processes), perf_counter() - start
    path = root / "features" / f"{key}-{device.type}.safetensors"
    if all(processes.gather(path.is_file())):
        maps = _read(path, len(split))
        if all(processes.gather(maps is not None)) and maps is not None:
            detail(f"features of {split.store}/{split.split}: {path}")
            return maps.to(device), perf_counter() - start
        say(f"note: {path} is damaged and will be made again")
    with progress(f"embed {split.store}/{split.split}", len(split), "images") as bar:
        maps = features(recipe, split, backbone, processes, bar.update)
    try:
        if processes.rank == 0:
            with atomic(path) as part:
                kept = maps.cpu()
                save_file({"maps": kept}, part, metadata={"digest": _digest(kept, path)})
    except (DataError, SafetensorError) as error:  # the latter is how safetensors puts that the disk is full
        say(f"note: features are not cached: {error}")
    return maps, perf_counter() - start


def features(
    recipe: Recipe,
    images: ImageSet,
    backbone: Backbone,
    processes: Processes,
    tick: Callable[[int], None] | None = None,
) -> Tensor:
    """Features [N,d,h,w] of a set of images, on the device and not kept."""
    if backbone.takes_features:
        return _given(recipe, images).to(processes.device)
    views: Views
    if build_extractor(recipe).patches:
        views = CutPatches(images, recipe, processes)
    else:
        views = DecodedImages(images, recipe, processes.device)
    return embed(backbone.to(processes.device), views, processes, tick)


def _given(recipe: Recipe, images: ImageSet) -> Tensor:
    """The features [N,d,h,w] that a dataset holds. Raises `DataError` for one of images, `RecipeError` for patches."""
    if build_extractor(recipe).patches:
        raise RecipeError(f"extractor {recipe.extractor.name} cuts patches from images; features take extractor fcn")
    if not isinstance(images, Split):
        raise DataError(f"{images.store}: holds images, not features; use another backbone than identity")
    return images.maps()


def _read(path: Path, count: int) -> Tensor | None:
    """The features in a file; None where it is not what was written there: other content, type, number or name."""
    try:
        with safe_open(regular(path), "pt") as file:
            maps, digest = file.get_tensor("maps"), (file.metadata() or {}).get("digest")
    except (SafetensorError, KeyError, OSError):
        return None
    whole = maps.ndim == 4 and len(maps) == count and maps.dtype == torch.float32 and digest == _digest(maps, path)
    return maps if whole else None


def _digest(maps: Tensor, path: Path) -> str:
    """A hash of what features are: their file's name, which says of what, their shape and their bytes."""
    digest = hashlib.sha256(f"{path.name} {tuple(maps.shape)}".encode())
    digest.update(maps.contiguous().numpy().data)
    return digest.hexdigest()
