"""What a file is told by: its content, whatever it is called."""

import io

import numpy as np
import pytest
from PIL import Image

from fewshot_cli.data.decode import open_image
from fewshot_cli.data.kinds import HEAD, decoder, formats, kind, left_out
from fewshot_cli.errors import DataError

LOSSLESS = {"PNG", "BMP", "GIF", "TIFF", "PPM", "TGA", "PCX", "SGI", "QOI", "DDS", "WEBP", "JPEG2000"}


def written(form: str) -> tuple[bytes, np.ndarray]:
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (2, 2, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue(), pixels


Image.init()


@pytest.mark.parametrize("form", sorted(Image.SAVE))
def test_every_format_that_pillow_writes_is_read_or_named(form):
    try:
        data, pixels = written(form)
    except (OSError, KeyError, ValueError) as error:
        pytest.skip(f"not written here: {error}")
    name = "photo.tga" if form == "TGA" else "photo"
    if left_out(name, data[:HEAD]) is None:
        got = np.asarray(open_image(data, name))
        off = np.abs(got.astype(int) - pixels)
        assert off.max() <= (0 if form in LOSSLESS - {"GIF"} else 60) and off.mean() < 12
    else:
        assert form not in formats()
        with pytest.raises(DataError, match="photo: does not decode as an image .no known format"):
            open_image(data, name)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_the_usual_formats_are_read_under_any_name(form):
    data, _ = written(form)
    for name in ("a", "a.jpg", "a.PNG", "a.dat", "a.jfif"):
        assert left_out(name, data[:HEAD]) is None and decoder(name, data[:HEAD]) == form


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("a.txt", b"hello", "not an image"),
        ("P1.txt", b"P1 is the first patient", "not an image"),
        ("BM.txt", b"BMW is a car, and this is a text about it", "not an image"),
        ("a.mp4", b"\0\0\0\x20ftypisom\0\0\2\0", "not an image"),
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        ("a.CR2", b"II*\0\x10\0\0\0CR", "camera raw"),
        ("a", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera raw"),
        ("a", b"\xff\xff\xff\x1cftyp" + bytes(56), "not an image"),
        ("a.svg", b"<svg", "SVG"),
        ("a.jxl", b"\xff\x0a\0", "JPEG XL"),
        ("a.eps", b"%!PS-Adobe", "PostScript"),
        ("a.ico", b"\0\0\1\0\1\0", "an icon"),
        ("a.jpg.part", b"\xff\xd8\xff\xe0", "unfinished"),
    ],
)
def test_what_is_no_image_has_a_reason(name, head, reason):
    if reason == "HEIC" and "HEIF" in formats():
        pytest.skip("pillow-heif is installed")
    assert left_out(name, head).startswith(reason)


def test_a_suffix_of_an_image_is_a_claim_that_is_looked_into():
    assert left_out("a.jpg", b"<html>") is None and left_out("a.jpg", b"") is None
    with pytest.raises(DataError, match="a.jpg: does not decode as an image .the file is empty"):
        open_image(b"", "a.jpg")


def test_an_avif_that_calls_itself_heif_too_is_an_avif():
    assert kind(b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf") == "AVIF"
    assert kind(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf") == "HEIC"
