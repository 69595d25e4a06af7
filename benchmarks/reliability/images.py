"""Image files in every format that Pillow writes, damaged, through the one reader of a user's images.

    python benchmarks/reliability/images.py [--tries 20000]

Damage: bits, bytes and numbers of the header changed, parts cut off, left out, repeated, or exchanged with another
format's. A fault: another exception than the sentence about the file, a raw warning, pixels that are not RGB, or more
than two seconds of processor time. Prints JSON.
"""

import io
import random
import struct
import time
import warnings

import numpy as np
from PIL import Image
from world import options, report

from fewshot_cli.data.bad import BadImage
from fewshot_cli.data.decode import OWN, decode_image
from fewshot_cli.data.kinds import HEAD, left_out

MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "I", "F", "YCbCr")
SECONDS = 2.0


def exif(rng: random.Random) -> bytes:
    """A block of metadata with an orientation and entries of any type and count."""
    entries = [(0x0112, 3, 1, rng.randint(0, 9))]
    entries += [(rng.randrange(1 << 16), rng.randrange(16), rng.choice([0, 1, 4, 1 << 31]), rng.randrange(1 << 32))]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


def written(rng: random.Random) -> tuple[str, bytes]:
    """A small image in some format and mode, and its format."""
    Image.init()
    while True:
        form, mode = rng.choice(sorted(Image.SAVE)), rng.choice(MODES)
        size = rng.randint(1, 40), rng.randint(1, 40)
        pixels = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, (*size, 3), dtype=np.uint8)
        more: dict[str, object] = {"exif": exif(rng)} if rng.random() < 0.3 else {}
        if form == "TIFF" and rng.random() < 0.5:
            more["compression"] = rng.choice(["tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4"])
        if form in ("PNG", "GIF", "WEBP", "TIFF") and rng.random() < 0.2:
            more |= {"save_all": True, "append_images": [Image.fromarray(255 - pixels)]}
        file = io.BytesIO()
        try:
            Image.fromarray(pixels).convert(mode).save(file, form, **more)
        except Exception:  # formats do not take every mode
            continue
        return form, file.getvalue()


def damaged(data: bytes, other: bytes, rng: random.Random) -> bytes:
    blob = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(blob)) if blob else 0
        early = rng.randrange(min(len(blob), HEAD)) if blob else 0
        kind = rng.randrange(9)
        if not blob:
            break
        if kind == 0:
            blob[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            blob[early] = rng.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            number = rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
            blob[early : early + 4] = struct.pack(rng.choice(["<I", ">I"]), number)
        elif kind == 3:
            del blob[at:]
        elif kind == 4:
            del blob[at : at + rng.randint(1, 50)]
        elif kind == 5:
            blob[at:at] = blob[at : at + rng.randint(1, 200)]
        elif kind == 6:
            blob[at : at + 30] = bytes(30)
        elif kind == 7:
            blob[at:] = other[at:]
        else:
            blob[at] = rng.randrange(256)
    return bytes(blob)


def fault(data: bytes, name: str) -> str | None:
    """What is wrong with how a file is read."""
    begin = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as raised:
            if left_out(name, data[:HEAD]) is None:
                pixels, _ = decode_image(data, name, 8, OWN)
                if pixels.shape != (3, 8, 8):
                    return f"pixels {tuple(pixels.shape)}"
    except BadImage:
        pass
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if raised:
        return f"a warning: {raised[0].message}"
    spent = time.process_time() - begin
    return f"{spent:.1f} s of processor time" if spent > SECONDS else None


def main() -> None:
    given = options(__doc__, 20000)
    faults, kinds, other = [], set(), b""
    for number in range(given.tries):
        rng = random.Random(f"{given.seed}/{number}")
        form, data = written(rng)
        kinds.add(form)
        spoiled, other = damaged(data, other, rng), data
        name = f"photo{rng.choice(['', '.jpg', '.tif', '.PNG', f'.{form.lower()}'])}"
        if (found := fault(spoiled, name)) is not None:
            faults.append({"try": number, "kind": form, "fault": found[:300]})
    report("damaged images", {"tries": given.tries, "kinds": sorted(kinds), "faults": faults})


if __name__ == "__main__":
    main()
