"""Boxes of images, drawn at random or given, and cutting them out: batched, on the device the images are on."""

import math

import torch
from torch import Generator, Tensor

_TRIES = 10
EDGE = 1e-3  # of a pixel: a box that ends on a pixel's edge does not see the next one, whatever is rounded


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
    """Boxes of images [N,3,H,W], resized to [N,3,size,size]; `flip` [N] mirrors. The pixels are those of Pillow.

    boxes [N,4] are shares of the image. Bilinear where the box is the smaller one; where it is the larger one, each
    pixel is the mean of those it covers under a triangle (Pillow's BILINEAR), so that small structure does not alias. A
    box sees its own pixels only. What it has outside of the image is the nearest pixel (`border`), or black (`zeros`).
    """
    left, top, wide, high = boxes.unbind(1)
    rows = _weights(top, high, x.shape[2], size, outside)
    columns = _weights(left, wide, x.shape[3], size, outside)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return rows[:, None] @ (x @ columns.mT[:, None])


def _weights(low: Tensor, span: Tensor, inputs: int, size: int, outside: str) -> Tensor:
    """What each pixel of an image's side weighs in each pixel of a box's: [N,size,inputs], of boxes given in shares."""
    low, high = (low * inputs)[:, None], ((low + span) * inputs)[:, None]
    step = (high - low) / size
    centre = (low + (torch.arange(size, device=low.device) + 0.5) * step)[..., None]
    reach = step.clamp(min=1)[..., None]
    if outside == "zeros":  # pixels beyond the image count in the mean, and are black
        beyond = int(torch.maximum(reach.max() - low.min(), reach.max() + high.max() - inputs).clamp(min=0).ceil())
        at = torch.arange(-beyond, inputs + beyond, device=low.device)
        weights = (1 - (at + 0.5 - centre).abs() / reach).clamp(min=0)
        return (weights / weights.sum(-1, keepdim=True))[..., beyond : beyond + inputs]
    at = torch.arange(inputs, device=low.device)
    seen = ((at + 1 > low + EDGE) & (at < high - EDGE))[:, None]
    weights = (1 - (at + 0.5 - centre.clamp(0.5, inputs - 0.5)).abs() / reach).clamp(min=0) * seen
    return weights / weights.sum(-1, keepdim=True)


def cut_patches(x: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Boxes [N,P,4], mirrored where flip [N,P], of images [N,3,H,W] → [N·P,3,size,size], an image's patches
    together.
    """
    return torch.stack([cut(x, boxes[:, p], flip[:, p], size) for p in range(boxes.shape[1])], 1).flatten(0, 1)


def pixel_boxes(boxes: Tensor, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Boxes [P,4] in shares as (left, top, right, bottom) in whole pixels, one at least, within the image."""
    scale = torch.tensor([width, height], dtype=torch.float64)
    low = (boxes[:, :2].double() * scale).round()
    high = ((boxes[:, :2].double() + boxes[:, 2:].double()) * scale).round()
    low = torch.minimum(low.clamp(min=0), scale - 1)
    high = torch.minimum(torch.maximum(high, low + 1), scale)
    return [tuple(box) for box in torch.cat([low, high], 1).int().tolist()]
