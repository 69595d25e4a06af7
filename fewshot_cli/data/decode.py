"""One encoded image to RGB pixels: what may be decoded, how large it is, and how it is squashed to a square."""

import io
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fewshot_cli.config.schema import MAX_PIXELS, ImageSpec
from fewshot_cli.data import photo
from fewshot_cli.data.bad import BadImage
from fewshot_cli.data.kinds import HEAD, decoder
from fewshot_cli.runtime.console import stderr_lock

T = TypeVar("T")
LARGE = 64_000_000  # pixels above which an image is decoded smaller where its format can, and alone
# what Pillow's readers raise for data that are not what they should be
UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    struct.error,
)
Image.MAX_IMAGE_PIXELS = None  # the limit here is MAX_PIXELS of what is decoded, which for a JPEG may be less
_alone = threading.Lock()


@dataclass(frozen=True)
class Reading:
    """How images are read: turned as their cameras recorded (published results do not), what lies behind transparent
    parts, how many pixels may be held in memory (`option` is the command's option that raises that), and how they are
    brought to another size: `bilinear` or `bicubic`. Sides of `enough` pixels are enough: the decoder of a JPEG may
    leave out resolution beyond, which is much faster.
    """

    upright: bool = False
    background: tuple[int, int, int] = photo.WHITE
    max_pixels: int | None = MAX_PIXELS
    option: str = "--set image.max_pixels"
    interpolation: str = "bilinear"
    enough: int | None = None

    @classmethod
    def of(cls, spec: ImageSpec, upright: bool = False) -> "Reading":
        """What a recipe says of its images."""
        return cls(upright, spec.behind, spec.max_pixels, interpolation=spec.interpolation)


PUBLISHED, OWN = Reading(), Reading(upright=True)


def measure(data: bytes, name: str, how: Reading = PUBLISHED) -> tuple[int, int]:
    """Height and width of an encoded image after decoding it fully. Raises `BadImage` when it does not decode."""
    width, height = read_image(data, name, how)[1]
    return height, width


def decode_image(data: bytes, name: str, side: int, how: Reading = OWN) -> tuple[Tensor, Tensor]:
    """One encoded image squashed to uint8 [3,side,side], and its original size [2] (h, w).

    Raises `BadImage` when it does not decode.
    """
    image, (width, height) = read_image(data, name, how)
    return squash(image, side, how)[0], torch.tensor([height, width])


def squash(image: Image.Image, side: int, how: Reading = PUBLISHED) -> tuple[Tensor, Tensor]:
    """An RGB image as uint8 [3,side,side], whatever its aspect ratio, and its original size [2] (h, w)."""
    size = torch.tensor([image.height, image.width])
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling[how.interpolation.upper()])
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), size


def shrunk(image: Image.Image, most: int) -> Tensor:
    """An RGB image in its own proportions as uint8 [3,h,w], whose longer side is `most` pixels at most."""
    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def cut_out(
    image: Image.Image, boxes: list[tuple[int, int, int, int]], flip: list[bool], side: int, how: Reading = PUBLISHED
) -> Tensor:
    """Boxes of an RGB image in pixels, each resized to a square and mirrored if `flip` says so: [P,3,side,side]."""
    out = torch.empty(len(boxes), 3, side, side, dtype=torch.uint8)
    for place, (box, mirrored) in enumerate(zip(boxes, flip, strict=True)):
        patch, _ = squash(image.crop(box), side, how)
        out[place] = patch.flip(2) if mirrored else patch
    return out


def open_image(data: bytes, name: str, how: Reading = PUBLISHED) -> Image.Image:
    """An image decoded to RGB. Raises `BadImage` as `read_image`."""
    return read_image(data, name, how)[0]


def read_image(data: bytes, name: str, how: Reading = PUBLISHED) -> tuple[Image.Image, tuple[int, int]]:
    """An image decoded to RGB, and its original width and height: one above `LARGE` may be decoded smaller.

    Raises `BadImage` when it does not decode or is too large.
    """
    try:
        try:
            return _decoded(data, name, how)
        except UNREADABLE:
            if (pixels := photo.without_words(data)) == data:
                raise
            return _decoded(pixels, name, how)
    except UNREADABLE as error:
        raise BadImage(name, f"does not decode as an image ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """Why a reader gave up; Pillow's own sentence contains the address of the buffer that it was given."""
    if isinstance(error, UnidentifiedImageError):
        return "no known format"
    if isinstance(error, MemoryError):
        return "the memory does not suffice"
    return " ".join(str(error).split()) or type(error).__name__


def _decoded(data: bytes, name: str, how: Reading) -> tuple[Image.Image, tuple[int, int]]:
    if not data:
        raise OSError("the file is empty")
    form = decoder(name, data[:HEAD])
    if form is None:
        raise UnidentifiedImageError
    image: Image.Image = Image.open(io.BytesIO(data), formats=[form])
    size, deep = image.size, ";16" in str(getattr(image, "tile", ""))
    large = size[0] * size[1] > LARGE
    if large:
        _decode_smaller(image)
    elif how.enough is not None and image.format in ("JPEG", "MPO"):
        image.draft(image.mode, (how.enough, how.enough))
    held = image.width * image.height
    if how.max_pixels is not None and held > how.max_pixels:
        raise BadImage(
            name,
            f"{size[0]}×{size[1]} pixels are more than the {how.max_pixels:,} that are held in memory, lest a file "
            "that was made to fill it does",
            f"shrink it, or raise the limit with {how.option}={held} if you trust it",
        )
    with _alone if large else nullcontext():
        with _silently() if image.format == "TIFF" else nullcontext():
            image.load()
        if deep and image.mode in ("RGB", "RGBA", "LA") and 0 < _most(image) < 16:
            reason = "its 16 bits hold no more than 12, of which 4 would be left"
            raise BadImage(name, reason, "save it with 8 bits a channel, or scaled to 16")
        if how.upright:
            stored = image.size
            image = photo.upright(image, name)
            size = size if image.size == stored else size[::-1]
        return photo.in_colour(image, name, how.background), size


def _most(image: Image.Image) -> int:
    """The largest number of any channel but the opacity."""
    colours = np.asarray(image)[..., : 1 if image.mode == "LA" else 3]
    return int(colours.max())


@contextmanager
def _silently() -> Iterator[None]:
    """Without what C code prints: libtiff tells stderr whatever it stumbles over, and not of which file."""
    with stderr_lock, ExitStack() as undo:
        with suppress(OSError):  # no stderr, nothing to keep silent
            kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, 2)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        yield


def _decode_smaller(image: Image.Image) -> None:
    """Let a large image's decoder leave out resolution, where it can: half, a quarter or an eighth of each side.

    A progressive JPEG is held whole by its decoder all the same.
    """
    width, height = image.size
    shift = next((k for k in (1, 2, 3) if (width >> k) * (height >> k) <= LARGE), 3)
    if image.format in ("JPEG", "MPO") and not image.info.get("progressive"):
        image.draft(image.mode, (width >> shift, height >> shift))
    elif image.format == "JPEG2000":
        image.reduce = shift  # type: ignore[method-assign,assignment]  # a property of this format's


def in_threads(work: Callable[[int], T], items: Iterable[int]) -> Iterator[T]:
    """What `work` makes of each item, in order, by several threads: decoders release the interpreter's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(work, items)
