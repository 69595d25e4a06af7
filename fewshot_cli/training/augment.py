"""Random crops, flips and colour jitter for a whole batch at once, on the device the pictures are on."""

import torch
from torch import Generator, Tensor

from fewshot_cli.contracts import Extractor
from fewshot_cli.crops import cut, cut_patches, random_resized
from fewshot_cli.features import standardise
from fewshot_cli.schema import AugmentSpec, ImageSpec

_LUMA = (0.299, 0.587, 0.114)


def augment(images: Tensor, sizes: Tensor, spec: AugmentSpec, image: ImageSpec, rng: Generator,
            extractor: Extractor | None = None) -> Tensor:  # fmt: skip
    """uint8 [N,3,S,S] with original sizes [N,2] (h, w) → standardised float [N,3,size,size], channels last.

    With an extractor of P patches, [N·P,3,size,size]: its patches take the place of the crop. Random numbers come
    from `rng` on the CPU, so the same seed augments alike on every device.
    """
    x = images.float().div_(255)
    if extractor is not None and extractor.patches:
        boxes, flip = extractor.boxes(sizes, rng, training=True)
        x = cut_patches(x, boxes.to(x.device), (flip & spec.flip).to(x.device), image.size)
    else:
        boxes = crop_boxes(sizes, spec, image, rng)
        flip = torch.rand(len(x), generator=rng) < 0.5 if spec.flip else torch.zeros(len(x), dtype=torch.bool)
        x = cut(x, boxes.to(x.device), flip.to(x.device), image.size, "zeros" if spec.crop == "pad" else "border")
    if spec.jitter:
        factors = 1 + spec.jitter * (2 * torch.rand(3, len(x), 1, 1, 1, generator=rng) - 1)
        x = jitter(x, factors.to(x.device))
    return standardise(x, image).contiguous(memory_format=torch.channels_last)


def crop_boxes(sizes: Tensor, spec: AugmentSpec, image: ImageSpec, rng: Generator) -> Tensor:
    """Boxes [N,4] (left, top, width, height) as shares of the picture; they may reach beyond it with `pad`."""
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
    """Brightness, contrast and saturation of pictures in [0,1] by factors [3,N,1,1,1], in that order."""
    luma = torch.tensor(_LUMA, device=x.device).view(3, 1, 1)
    x = (x * factors[0]).clamp_(0, 1)
    grey = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = (x * factors[1] + grey * (1 - factors[1])).clamp_(0, 1)
    grey = (x * luma).sum(1, keepdim=True)
    return (x * factors[2] + grey * (1 - factors[2])).clamp_(0, 1)
