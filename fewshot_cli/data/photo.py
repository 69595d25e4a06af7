"""What a decoded image means: which way up it is, what lies behind its transparent parts, how bright it is."""

import re
import struct
import warnings

import numpy as np
from PIL import Image

from fewshot_cli.data.bad import BadImage
from fewshot_cli.runtime.console import note

ORIENTATION = 0x0112  # the EXIF tag
WHITE = (255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_WORDS = (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"tIME", b"pHYs")  # chunks that no pixel depends on


warnings.filterwarnings("ignore", module=r"PIL\.")  # they name Pillow's own files, and not the image


def upright(image: Image.Image, name: str) -> Image.Image:
    """The image turned as its camera recorded. Only that number is read: whatever else its metadata hold, or lack, is
    nobody's business here; where it cannot be read, a note says so.
    """
    try:
        block = image.info.get("exif")
        xmp = image.info.get("xmp", b"")
        number = _orientation(block, xmp) if isinstance(block, bytes) else int(image.getexif().get(ORIENTATION, 1))
    except Exception as error:  # parsers of metadata raise whatever they trip over
        note("metadata", f"{name}: its metadata cannot be read ({error}), so it is taken the way up that it is stored")
        return image
    return image if number not in _TURNS else image.transpose(_TURNS[number])


def _orientation(block: bytes, xmp: object = b"") -> int:
    """The orientation in an EXIF block, else in XMP, 1 without one. Other entries are stepped over, since Pillow gives
    up at the first that is odd. Raises `struct.error` for a block that ends before its entries do.
    """
    while block.startswith(b"Exif\0\0"):  # some programs write it twice
        block = block[6:]
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is not None:
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, first)
        for at in range(first + 2, first + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from(f"{order}H", block, at)
            if tag == ORIENTATION:  # a SHORT, as the standard has it, or what was written in its place
                read = (struct.unpack_from(f"{order}{width}", block, at + 8)[0] for width in "HIB")
                return next((number for number in read if 1 <= number <= 8), 1)
    found = _XMP.search(xmp if isinstance(xmp, bytes) else str(xmp).encode())
    return int(found[1]) if found else 1


def in_colour(image: Image.Image, name: str, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """The image as RGB: transparency shows `background`, more than 8 bits are brought to 8 by a stated rule.

    Whole numbers are taken for 8, 12 or 16 bits, whichever is the least that holds them; real numbers for 0 to 1, or 0
    to 255 where they are above 1. Raises `BadImage` for others.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image), name))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image)
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    whole = values.dtype.kind in "iu"
    for top, bits in ((255, 8), (4095, 12), (65535, 16)) if whole else ((1.0, 0), (255.0, 0)):
        if low >= 0 and high <= top:
            if bits == 12 or (bits == 8 and values.dtype.itemsize > 1):
                note("few bits", f"{name}: its numbers end at {high:.0f}, so they are taken for {bits} bits")
            return (values.astype(np.float64) * (255 / top)).round().astype(np.uint8)
    reason = f"its numbers go from {low:.6g} to {high:.6g}, which is no usual range of brightness"
    raise BadImage(name, reason, "save it with 8 or 16 bits a channel")


def without_words(data: bytes) -> bytes:
    """A PNG without the chunks that no pixel depends on, which its reader may refuse; other data as they are."""
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at : at + 12 + length]
        if kind not in _PNG_WORDS:
            kept.append(chunk)
        at += 12 + length
    return b"".join(kept)
