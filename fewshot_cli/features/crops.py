"""Boxes of images, drawn at random or given, and cutting them out: batched, on the device the images are on."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

_TRIES = 10


def random_resized(sizes: Tensor, scale: tuple[float, float], rng: Generator) -> Tensor:
    """Boxes [N,4] (left, top, width, height) as shares of images with original sizes [N,2] (h, w).

    Area and aspect ratio (3/4 to 4/3) are drawn in the original image's pixels, up to ten times until the box fits,
    then it is the largest centred box of an allowed ratio.
    """
    count, (h, w) = len(sizes), sizes.unbind(1)
    area = h * w * _between(rng, _TRIES, count, *scale)
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


def _between(rng: Generator, rows: int, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(rows, count, generator=rng)


def cut(x: Tensor, boxes: Tensor, flip: Tensor, size: int, outside: str = "border") -> Tensor:
    """Resample boxes of images [N,3,S,S] to [N,3,size,size]; `flip` [N] mirrors.

    Outside the image is its nearest pixel (`border`), which boxes within it do not see as a dark rim, or black
    (`zeros`).

    boxes [N,4] are shares of the image. Bilinear; of images much larger than the result it takes several samples a
    pixel and averages, so that small structure does not alias.
    """
    left, top, wide, high = boxes.unbind(1)
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0] = torch.where(flip, -wide, wide)
    theta[:, 1, 1] = high
    theta[:, 0, 2] = 2 * left + wide - 1
    theta[:, 1, 2] = 2 * top + high - 1
    fine = max(1, round(x.shape[-1] / size))
    grid = F.affine_grid(theta, [len(x), 3, fine * size, fine * size], align_corners=False)
    out = F.grid_sample(x, grid, padding_mode=outside, align_corners=False)
    return F.avg_pool2d(out, fine) if fine > 1 else out


def cut_patches(x: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Boxes [N,P,4], mirrored where flip [N,P], of images [N,3,S,S] → [N·P,3,size,size], an image's patches
    together.
    """
    return torch.stack([cut(x, boxes[:, p], flip[:, p], size) for p in range(boxes.shape[1])], 1).flatten(0, 1)
