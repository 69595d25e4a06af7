"""Features of decoded images: maps of a backbone, or pooled patches."""

import hashlib
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.config.parts import build_extractor
from fewshot_cli.config.schema import ImageSpec, Recipe
from fewshot_cli.contracts import Backbone
from fewshot_cli.data.pixels import room
from fewshot_cli.data.store import ImageSet
from fewshot_cli.errors import DataError
from fewshot_cli.features.crops import pixel_boxes
from fewshot_cli.features.preprocess import normalise, standardise
from fewshot_cli.runtime.processes import Processes

BATCH = 250  # images, or patches; fixed, so that features do not depend on how many are wanted


class Views(Protocol):
    """What a backbone sees of a set of images: `count` of them, each as one image (`patches` is 0) or as patches."""

    count: int
    patches: int

    def __call__(self, start: int, stop: int) -> Tensor:
        """Standardised images [n,3,size,size], or patches [n·patches,3,size,size], of the images start … stop−1."""


class WholeImages:
    """The centres of decoded images [N,3,S,S], on the device that they are embedded on."""

    patches = 0

    def __init__(self, images: Tensor, spec: ImageSpec, device: torch.device) -> None:
        self.images, self.spec, self.device, self.count = images, spec, device, len(images)

    def __call__(self, start: int, stop: int) -> Tensor:
        """As `Views`."""
        return normalise(self.images[start:stop].to(self.device), self.spec)


class DecodedImages:
    """The same of a set that is decoded when it is asked for, so that it need not fit into memory."""

    patches = 0

    def __init__(self, images: ImageSet, recipe: Recipe, device: torch.device) -> None:
        self.set, self.spec, self.device, self.count = images, recipe.image, device, len(images)
        self.crop = recipe.dataset.crop

    def __call__(self, start: int, stop: int) -> Tensor:
        """As `Views`."""
        images, _ = self.set.decode(self.spec.decoded, self.crop, only=range(start, min(stop, self.count)))
        return normalise(images.to(self.device), self.spec)


class CutPatches:
    """An extractor's patches, cut from the images as they are: none is blurred by a change of size before.

    Random ones are drawn for each image from the recipe's seed and its identity, whatever others there are. With `keep`
    they are kept in memory where they fit, since they are asked for again.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, processes: Processes, keep: bool = False) -> None:
        self.images, self.spec, self.crop, self.device = images, recipe.image, recipe.dataset.crop, processes.device
        self.count, self.drawn = len(images), Patches(recipe)
        self.patches, self.identities = self.drawn.extractor.patches, images.identities()
        each = self.patches * 3 * self.spec.size**2
        self.kept: dict[int, Tensor] | None = {} if keep and self.count * each <= room(processes) else None

    def __call__(self, start: int, stop: int) -> Tensor:
        """As `Views`."""
        cut = self.kept.get(start) if self.kept is not None else None
        if cut is None:
            cut = self.images.patches(range(start, min(stop, self.count)), self._boxes, self.spec.size, self.crop)
            if self.kept is not None:
                self.kept[start] = cut
        return standardise(cut.flatten(0, 1).to(self.device).float().div_(255), self.spec)

    def _boxes(self, i: int, width: int, height: int) -> tuple[list[tuple[int, int, int, int]], list[bool]]:
        boxes, flip = self.drawn(self.identities[i], torch.tensor([float(height), float(width)]))
        return pixel_boxes(boxes, width, height), flip.tolist()


@torch.no_grad()
def embed(backbone: Backbone, views: Views, processes: Processes, tick: Callable[[int], None] | None = None) -> Tensor:
    """Maps [N,d,h,w] float32 of a set of images, in evaluation mode, on the device; the processes share the batches.

    Each patch is pooled to one position: [N,d,1,P]. Raises `DataError` when features are not finite.
    """
    training = backbone.training
    backbone.eval()
    out, device = [], processes.device
    step = max(1, BATCH // max(1, views.patches))
    for start in range(step * processes.rank, views.count, step * processes.size):
        maps = backbone(views(start, start + step).contiguous(memory_format=torch.channels_last)).float()
        if views.patches:
            maps = pool_patches(maps, views.patches)
        out.append(maps.contiguous())
        if tick:
            tick(min(start + step, views.count))
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


def directions(maps: Tensor) -> Tensor:
    """Maps [N,d,h,w], pooled, as directions of length one: [N,d]."""
    return F.normalize(maps.flatten(2).mean(-1), dim=-1)


class Patches:
    """The patches of a recipe's extractor in evaluation: the same for an image whatever others there are."""

    def __init__(self, recipe: Recipe) -> None:
        self.extractor, self.seed = build_extractor(recipe), recipe.seed

    def __call__(self, identity: str, size: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [P,4] as shares and mirrorings [P] of an image with an original size [2] (h, w)."""
        rng = torch.Generator()
        if self.extractor.random:
            digest = hashlib.sha256(f"{self.seed}/{identity}".encode()).digest()
            rng.manual_seed(int.from_bytes(digest[:4]))
        boxes, flip = self.extractor.boxes(size[None], rng, training=False)
        return boxes[0], flip[0]
