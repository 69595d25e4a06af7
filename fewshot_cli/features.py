"""Embed a split once; the cache every evaluation reads."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewshot_cli import build
from fewshot_cli import recipe as recipes
from fewshot_cli.console import progress, say
from fewshot_cli.contracts import Backbone
from fewshot_cli.crops import cut_patches
from fewshot_cli.data.store import Pictured
from fewshot_cli.engine import World
from fewshot_cli.errors import DataError
from fewshot_cli.files import atomic
from fewshot_cli.schema import ImageSpec, Recipe

BATCH = 250  # pictures, or patches; fixed, so that features do not depend on how many are wanted


def normalise(images: Tensor, spec: ImageSpec) -> Tensor:
    """uint8 [N,3,S,S] → centre crop, float in [0,1], standardised: [N,3,size,size]."""
    edge = (images.shape[-1] - spec.size) // 2
    images = images[..., edge : edge + spec.size, edge : edge + spec.size]
    return standardise(images.float().div_(255), spec)


def standardise(x: Tensor, spec: ImageSpec) -> Tensor:
    """Pictures [N,3,H,W] in [0,1], in place, less the mean and over the standard deviation of each colour."""
    mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (spec.mean, spec.std))
    return x.sub_(mean).div_(std)


@torch.no_grad()
def embed(
    backbone: Backbone,
    images: Tensor,
    spec: ImageSpec,
    world: World,
    tick: Callable[[int], None] | None = None,
    patches: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Maps [N,d,h,w] float32 of decoded pictures, in evaluation mode, on the device; the processes share the batches.

    With `patches`, boxes [N,P,4] and mirrorings [N,P], each patch is pooled to one position: [N,d,1,P]. Raises
    `DataError` when features are not finite.
    """
    training = backbone.training
    backbone.eval()
    out, device = [], world.device
    step = BATCH if patches is None else max(1, BATCH // patches[0].shape[1])
    for start in range(step * world.rank, len(images), step * world.size):
        batch = images[start : start + step].to(device)
        if patches is None:
            views = normalise(batch, spec)
        else:
            boxes, flip = (part[start : start + step].to(device) for part in patches)
            views = standardise(cut_patches(batch.float().div_(255), boxes, flip, spec.size), spec)
        maps = backbone(views.contiguous(memory_format=torch.channels_last)).float()
        if patches is not None:
            maps = pool_patches(maps, flip.shape[1])
        out.append(maps.contiguous())
        if tick:
            tick(start + len(batch))
    backbone.train(training)
    if world.size > 1:
        shape = world.gather(out[0].shape[1:] if out else None)[0]
        parts = [
            part.split(step) for part in world.rows(torch.cat(out) if out else torch.empty(0, *shape, device=device))
        ]
        out = [part[i] for i in range(len(parts[0])) for part in parts if i < len(part)]
    maps = torch.cat(out)
    if not torch.isfinite(maps.sum()):
        raise DataError("the backbone gives NaN or infinite features; check the weights and image.mean, image.std")
    return maps


def pool_patches(maps: Tensor, patches: int) -> Tensor:
    """Maps [N·patches,d,h,w] of pictures' patches, each pooled to one position: [N,d,1,patches]."""
    return maps.mean((2, 3)).unflatten(0, (-1, patches)).mT[:, :, None]


def patches_of(recipe: Recipe, identities: list[str], sizes: Tensor) -> tuple[Tensor, Tensor] | None:
    """Boxes [N,P,4] and mirrorings [N,P] of the patches of pictures with original sizes [N,2]; None for maps.

    Random ones are drawn for each picture from the recipe's seed and its identity, whatever others there are.
    """
    extractor, rng = build.extractor(recipe), torch.Generator()
    if not extractor.patches:
        return None
    if not extractor.random:
        return extractor.boxes(sizes, rng, training=False)
    drawn = []
    for identity, size in zip(identities, sizes, strict=True):
        digest = hashlib.sha256(f"{recipe.seed}/{identity}".encode()).digest()
        drawn.append(extractor.boxes(size[None], rng.manual_seed(int.from_bytes(digest[:4])), training=False))
    boxes, flip = zip(*drawn, strict=True)
    return torch.cat(boxes), torch.cat(flip)


def key(recipe: Recipe, split: Pictured, weights: str) -> str:
    """Name of a feature set: everything it depends on, hashed."""
    resolved = recipe.resolved()
    drawn = recipe.seed if build.extractor(recipe).random else None
    return recipes.fingerprint(
        {
            "format": 4,
            "data": split.sha256,
            "weights": weights,
            "crop": recipe.dataset.crop,
            "seed": drawn,
            **{k: resolved[k] for k in ("image", "backbone", "extractor")},
        }
    )


def cached(
    recipe: Recipe, split: Pictured, backbone: Backbone, weights: str, root: Path, world: World
) -> tuple[Tensor, float]:
    """Features [N,d,h,w] of a split and the seconds it took to have them; kept under `<root>/features`.

    A cache that cannot be written is said on stderr and done without.
    """
    start, device = perf_counter(), world.device
    path = root / "features" / f"{key(recipe, split, weights)}-{device.type}.safetensors"
    if all(world.gather(path.is_file())):
        try:
            maps = load_file(path)["maps"]
        except (SafetensorError, KeyError, OSError):
            maps = torch.empty(0)
        if all(world.gather(len(maps) == len(split))):
            return maps.to(device), perf_counter() - start
        say(f"note: {path} is damaged and will be made again")
    with progress(f"decode {split.store}/{split.split}", len(split)) as bar:
        images, sizes = split.decode(build.side(recipe), recipe.dataset.crop, bar.update)
    with progress(f"embed {split.store}/{split.split}", len(split)) as bar:
        maps = embed(
            backbone.to(device), images, recipe.image, world, bar.update, patches_of(recipe, split.identities(), sizes)
        )
    try:
        if world.rank == 0:
            with atomic(path) as part:
                save_file({"maps": maps.cpu()}, part)
    except DataError as fault:
        say(f"note: features are not cached: {fault}")
    return maps, perf_counter() - start
