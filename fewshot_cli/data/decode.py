"""One encoded image to RGB pixels: what may be decoded, how large it is, and how it is squashed to a square."""

import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fewshot_cli.data.photo import in_colour, without_words
from fewshot_cli.data.photo import upright as turned
from fewshot_cli.errors import DataError

MAX_PIXELS = 64_000_000  # an image with more is taken for a decompression bomb
# Pillow's other formats run programs (EPS) or do not hold photographs
FILE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def measure(data: bytes, name: str) -> tuple[int, int]:
    """Height and width of an encoded image after decoding it fully. Raises `DataError` when it does not decode."""
    image = open_image(data, name)
    return image.height, image.width


def decode_image(data: bytes, name: str, side: int) -> tuple[Tensor, Tensor]:
    """One encoded image squashed to uint8 [3,side,side], and its original size [2] (h, w).

    Raises `DataError` when it does not decode.
    """
    return squash(open_image(data, name, upright=True), side)


def squash(image: Image.Image, side: int) -> tuple[Tensor, Tensor]:
    """An RGB image as uint8 [3,side,side], whatever its aspect ratio, and its original size [2] (h, w)."""
    size = torch.tensor([image.height, image.width])
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), size


def cut_out(image: Image.Image, boxes: list[tuple[int, int, int, int]], flip: list[bool], side: int) -> Tensor:
    """Boxes of an RGB image in pixels, each resized to a square and mirrored if `flip` says so: [P,3,side,side]."""
    out = torch.empty(len(boxes), 3, side, side, dtype=torch.uint8)
    for place, (box, mirrored) in enumerate(zip(boxes, flip, strict=True)):
        patch, _ = squash(image.crop(box), side)
        out[place] = patch.flip(2) if mirrored else patch
    return out


def _decoded(data: bytes, name: str) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(data), formats=FILE_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{name}: {image.width}×{image.height} pixels are more than {MAX_PIXELS:,}; remove or shrink it"
        )
    image.load()
    return image


def open_image(data: bytes, name: str, upright: bool = False) -> Image.Image:
    """Decode an image to RGB; with `upright`, rotate it as its camera recorded, which published results do not do.

    Raises `DataError` when it does not decode or has more than `MAX_PIXELS`.
    """
    try:
        try:
            image = _decoded(data, name)
        except UNREADABLE:
            if (pixels := without_words(data)) == data:
                raise
            image = _decoded(pixels, name)
        return in_colour(turned(image, name) if upright else image, name)
    except UNREADABLE as error:
        # Pillow's own sentence contains the address of the buffer that it was given
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{name}: does not decode as an image ({reason}); remove or replace it") from error
