"""Random crops, flips, colour jitter and mixing for a whole batch at once, on the device the images are on.

What is random is drawn first, on the CPU and for the whole batch, so that the same seed gives the same result on every
device and for every number of processes that share the batch.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fewshot_cli.config.schema import AugmentSpec, ImageSpec, MixSpec
from fewshot_cli.contracts import Extractor
from fewshot_cli.features.crops import cut, cut_patches, random_resized
from fewshot_cli.features.preprocess import standardise
from fewshot_cli.runtime.device import onto

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Draws:
    """What is random about N images: boxes [N,4] and mirrorings [N], of patches [N,P,4] and [N,P]; `factors`
    [3,N,1,1,1] of brightness, contrast and saturation, for P patches [3,N·P,1,1,1], or None.
    """

    boxes: Tensor
    flip: Tensor
    factors: Tensor | None

    def part(self, rows: slice) -> "Draws":
        """Those of some of the images."""
        if self.factors is None:
            return Draws(self.boxes[rows], self.flip[rows], None)
        factors = self.factors.unflatten(1, (len(self.boxes), -1))[:, rows].flatten(1, 2)
        return Draws(self.boxes[rows], self.flip[rows], factors)


def draw(
    sizes: Tensor, spec: AugmentSpec, image: ImageSpec, rng: Generator, extractor: Extractor | None = None
) -> Draws:
    """Draw for images with original sizes [N,2] (h, w); an extractor's patches take the place of the crop."""
    if extractor is not None and extractor.patches:
        boxes, flip = extractor.boxes(sizes, rng, training=True)
        flip &= spec.flip
    else:
        boxes = crop_boxes(sizes, spec, image, rng)
        flip = torch.rand(len(sizes), generator=rng) < 0.5 if spec.flip else torch.zeros(len(sizes), dtype=torch.bool)
    factors = 1 + spec.jitter * (2 * torch.rand(3, flip.numel(), 1, 1, 1, generator=rng) - 1) if spec.jitter else None
    return Draws(boxes, flip, factors)


def apply(images: Tensor, draws: Draws, spec: AugmentSpec, image: ImageSpec, size: int | None = None) -> Tensor:
    """uint8 [N,3,S,S] → standardised float [N,3,size,size], or [N·P,3,size,size] of P patches, channels last.

    `size` is the network's input, `image.size` unless it is given.
    """
    x, size = images.float().div_(255), size or image.size
    boxes, flip = onto(x.device, draws.boxes), onto(x.device, draws.flip)
    if boxes.ndim == 3:
        x = cut_patches(x, boxes, flip, size)
    else:
        x = cut(x, boxes, flip, size, "zeros" if spec.crop == "pad" else "border")
    if draws.factors is not None:
        x = jitter(x, onto(x.device, draws.factors))
    return standardise(x, image).contiguous(memory_format=torch.channels_last)


def crop_boxes(sizes: Tensor, spec: AugmentSpec, image: ImageSpec, rng: Generator) -> Tensor:
    """Boxes [N,4] (left, top, width, height) as shares of the image; they may reach beyond it with `pad`."""
    count, share = len(sizes), image.size / image.decoded
    if spec.crop == "random_resized":
        return random_resized(sizes, spec.scale, rng)
    if spec.crop == "pad":
        margin = image.size // 8 / image.decoded
        steps = torch.rand(count, 2, generator=rng) * (1 - share + 2 * margin) - margin
        pixels = (steps * image.decoded).round() / image.decoded
        return torch.cat([pixels, torch.full((count, 2), share)], 1)
    return torch.tensor([(1 - share) / 2] * 2 + [share] * 2).expand(count, 4)


def jitter(x: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation of images in [0,1] by factors [3,N,1,1,1], in that order."""
    luma = onto(x.device, torch.tensor(_LUMA)).view(3, 1, 1)
    x = (x * factors[0]).clamp_(0, 1)
    grey = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = (x * factors[1] + grey * (1 - factors[1])).clamp_(0, 1)
    grey = (x * luma).sum(1, keepdim=True)
    return (x * factors[2] + grey * (1 - factors[2])).clamp_(0, 1)


@dataclass(frozen=True)
class Mixing:
    """How N images are mixed with their neighbours: each keeps the share `keep` [N] of its label; `box` [N,4] (left,
    top, right, bottom) in pixels is taken from the neighbour, empty where all of the image is blended instead.
    """

    keep: Tensor
    box: Tensor

    def part(self, rows: slice) -> "Mixing":
        """That of some of the images; an even number of them begin and end a part."""
        return Mixing(self.keep[rows], self.box[rows])


def draw_mixing(count: int, spec: MixSpec, size: int, rng: Generator) -> Mixing | None:
    """Draw for `count` images of side `size`; None when nothing is mixed."""
    kinds = [alpha for alpha in (spec.mixup, spec.cutmix) if alpha]
    if not kinds:
        return None
    cut_out = torch.full((count,), bool(spec.cutmix)) if len(kinds) == 1 else torch.rand(count, generator=rng) < 0.5
    alpha = torch.where(cut_out, spec.cutmix or 1.0, spec.mixup or 1.0)
    a, b = (torch._standard_gamma(alpha, generator=rng) for _ in range(2))
    mixed = torch.rand(count, generator=rng) < spec.share
    keep = torch.where(mixed, a / (a + b).clamp(min=1e-30), 1.0)
    half = (1 - keep).sqrt() * size / 2
    centre = torch.rand(2, count, generator=rng) * size
    low, high = ((centre + sign * half).round().clamp(0, size) for sign in (-1, 1))
    box = torch.cat([low, high]).T * cut_out[:, None]
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    return Mixing(torch.where(cut_out, 1 - area / size**2, keep), box)


def neighbours(count: int, device: torch.device | None = None) -> Tensor:
    """Each image's partner [count]: 0 with 1, 2 with 3, …; a last odd one with itself. The batch's order is
    random.
    """
    return (torch.arange(count, device=device) ^ 1).clamp(max=count - 1)


def mix(x: Tensor, mixing: Mixing) -> Tensor:
    """Standardised images [N,3,H,W] mixed with their neighbours."""
    other = x[neighbours(len(x), x.device)]
    box, keep = onto(x.device, mixing.box), onto(x.device, mixing.keep)
    at = torch.arange(x.shape[-1], device=x.device)
    across = (at >= box[:, :1]) & (at < box[:, 2:3])
    down = (at >= box[:, 1:2]) & (at < box[:, 3:])
    inside = (down[:, :, None] & across[:, None])[:, None]
    blend = torch.where(box.any(1), 1.0, keep)[:, None, None, None]
    return torch.where(inside, other, torch.lerp(other, x, blend))
