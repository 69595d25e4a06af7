"""Random crops, flips and colour jitter for a whole batch at once, on the device the pictures are on."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fewshot_cli.schema import AugmentSpec, ImageSpec

_TRIES = 10
_LUMA = (0.299, 0.587, 0.114)


def augment(images: Tensor, sizes: Tensor, spec: AugmentSpec, image: ImageSpec, rng: Generator) -> Tensor:
    """uint8 [N,3,S,S] with original sizes [N,2] (h, w) → standardised float [N,3,size,size], channels last.

    Random numbers come from `rng` on the CPU, so the same seed augments alike on every device.
    """
    x = images.float().div_(255)
    boxes = crop_boxes(sizes, spec, image, rng)
    flip = torch.rand(len(x), generator=rng) < 0.5 if spec.flip else torch.zeros(len(x), dtype=torch.bool)
    x = _cut(x, boxes.to(x.device), flip.to(x.device), image.size)
    if spec.jitter:
        factors = 1 + spec.jitter * (2 * torch.rand(3, len(x), 1, 1, 1, generator=rng) - 1)
        x = jitter(x, factors.to(x.device))
    mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (image.mean, image.std))
    return x.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def crop_boxes(sizes: Tensor, spec: AugmentSpec, image: ImageSpec, rng: Generator) -> Tensor:
    """Boxes [N,4] (left, top, width, height) as shares of the picture; they may reach beyond it with `pad`.

    `random_resized` draws area and aspect ratio (3/4 to 4/3) in the original picture's pixels, up to ten times until
    the box fits, then falls back to the largest centred box of an allowed ratio.
    """
    count, share = len(sizes), image.size / image.decoded
    if spec.crop == "random_resized":
        h, w = sizes[:, 0], sizes[:, 1]
        area = h * w * _between(rng, _TRIES, count, *spec.scale)
        ratio = _between(rng, _TRIES, count, math.log(3 / 4), math.log(4 / 3)).exp()
        wide, high = (area * ratio).sqrt() / w, (area / ratio).sqrt() / h
        fits = (wide <= 1) & (high <= 1)
        first = fits.int().argmax(0, keepdim=True)
        wide, high = wide.gather(0, first)[0], high.gather(0, first)[0]
        any_fits, bounded = fits.any(0), (w / h).clamp(3 / 4, 4 / 3)
        wide = torch.where(any_fits, wide, (h * bounded / w).clamp(max=1))
        high = torch.where(any_fits, high, (w / bounded / h).clamp(max=1))
        at = torch.rand(2, count, generator=rng)
        left, top = (torch.where(any_fits, at[i], torch.full_like(at[i], 0.5)) for i in (0, 1))
        return torch.stack([left * (1 - wide), top * (1 - high), wide, high], 1)
    if spec.crop == "pad":
        margin = image.size // 8 / image.decoded
        steps = torch.rand(count, 2, generator=rng) * (1 - share + 2 * margin) - margin
        pixels = (steps * image.decoded).round() / image.decoded
        return torch.cat([pixels, torch.full((count, 2), share)], 1)
    return torch.tensor([(1 - share) / 2] * 2 + [share] * 2).expand(count, 4)


def _between(rng: Generator, rows: int, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(rows, count, generator=rng)


def _cut(x: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Resample each box (shares of the picture) to size×size bilinearly; outside is black."""
    left, top, wide, high = boxes.unbind(1)
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0] = torch.where(flip, -wide, wide)
    theta[:, 1, 1] = high
    theta[:, 0, 2] = 2 * left + wide - 1
    theta[:, 1, 2] = 2 * top + high - 1
    grid = F.affine_grid(theta, [len(x), 3, size, size], align_corners=False)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def jitter(x: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation of pictures in [0,1] by factors [3,N,1,1,1], in that order."""
    luma = torch.tensor(_LUMA, device=x.device).view(3, 1, 1)
    x = (x * factors[0]).clamp_(0, 1)
    grey = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = (x * factors[1] + grey * (1 - factors[1])).clamp_(0, 1)
    grey = (x * luma).sum(1, keepdim=True)
    return (x * factors[2] + grey * (1 - factors[2])).clamp_(0, 1)
