"""Features of decoded images: maps of a backbone, or pooled patches."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from fewshot_cli.config.parts import build_extractor
from fewshot_cli.config.schema import ImageSpec, Recipe
from fewshot_cli.contracts import Backbone
from fewshot_cli.errors import DataError
from fewshot_cli.features.crops import cut_patches
from fewshot_cli.features.preprocess import normalise, standardise
from fewshot_cli.runtime.processes import Processes

BATCH = 250  # images, or patches; fixed, so that features do not depend on how many are wanted


@torch.no_grad()
def embed(
    backbone: Backbone,
    images: Tensor,
    spec: ImageSpec,
    processes: Processes,
    tick: Callable[[int], None] | None = None,
    patches: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Maps [N,d,h,w] float32 of decoded images, in evaluation mode, on the device; the processes share the batches.

    With `patches`, boxes [N,P,4] and mirrorings [N,P], each patch is pooled to one position: [N,d,1,P]. Raises
    `DataError` when features are not finite.
    """
    training = backbone.training
    backbone.eval()
    out, device = [], processes.device
    step = BATCH if patches is None else max(1, BATCH // patches[0].shape[1])
    for start in range(step * processes.rank, len(images), step * processes.size):
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
    if processes.size > 1:
        shape = processes.gather(tuple(out[0].shape[1:]) if out else ())[0]
        mine = torch.cat(out) if out else torch.empty(0, *shape, device=device)
        parts = [part.split(step) for part in processes.rows(mine)]
        out = [part[i] for i in range(len(parts[0])) for part in parts if i < len(part)]
    maps = torch.cat(out)
    if not torch.isfinite(maps.sum()):
        raise DataError("the backbone gives NaN or infinite features; check the weights and image.mean, image.std")
    return maps


def pool_patches(maps: Tensor, patches: int) -> Tensor:
    """Maps [N·patches,d,h,w] of images' patches, each pooled to one position: [N,d,1,patches]."""
    return maps.mean((2, 3)).unflatten(0, (-1, patches)).mT[:, :, None]


def patches_of(recipe: Recipe, identities: list[str], sizes: Tensor) -> tuple[Tensor, Tensor] | None:
    """Boxes [N,P,4] and mirrorings [N,P] of the patches of images with original sizes [N,2]; None for maps.

    Random ones are drawn for each image from the recipe's seed and its identity, whatever others there are.
    """
    extractor, rng = build_extractor(recipe), torch.Generator()
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
