"""What a user's image means: odd metadata, transparency, unusual numbers and large texts change no pixel silently."""

import io
import struct
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from fewshot_cli.data import decode
from fewshot_cli.data.decode import LARGE, OWN, Reading, decode_image, measure, open_image, read_image
from fewshot_cli.errors import DataError
from fewshot_cli.runtime import console

TYPES, COUNTS = range(13), (0, 1, 2, 3, 4, 5, 8, 16, 64, 255, 65535, 2**31)
TAGS = (0x0100, 0x010F, 0x0110, 0x011A, 0x0131, 0x0132, 0x0213, 0x8298, 0x8769, 0x9286)


@pytest.fixture(autouse=True)
def all_notes():
    console._notes.clear()


def exif(tag: int, kind: int, count: int) -> bytes:
    """A metadata block with orientation 6 and another entry, of any type and count."""
    entries = sorted([(0x0112, 3, 1, 6), (tag, kind, count, 0x41414141)])
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0)


def encoded(image: Image.Image, form: str, **more: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


@pytest.mark.parametrize("tag", TAGS)
def test_odd_metadata_do_not_keep_a_photo_from_being_turned(tag, recwarn):
    image = Image.new("RGB", (16, 8), (200, 10, 10))
    for kind in TYPES:
        for count in COUNTS:
            data = encoded(image, "JPEG", exif=exif(tag, kind, count))
            assert open_image(data, "x.jpg", OWN).size == (8, 16), (kind, count)
            assert open_image(data, "x.jpg").size == (16, 8)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("kind", "form"), [(1, "B"), (3, "H"), (4, "I"), (9, "i"), (13, "H")])
def test_an_orientation_of_an_odd_type_is_read(order, kind, form):
    entry = struct.pack(f"{order}HHI", 0x0112, kind, 1) + struct.pack(f"{order}{form}", 6).ljust(4, b"\0")
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    data = encoded(Image.new("RGB", (16, 8)), "JPEG", exif=b"Exif\0\0" + block)
    assert open_image(data, "x.jpg", OWN).size == (8, 16)


@pytest.mark.parametrize("turn", range(1, 9))
def test_each_orientation_is_pillows_own(turn):
    from PIL import ImageOps

    pixels = np.random.default_rng(turn).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    note = Image.Exif()
    note[0x0112] = turn
    data = encoded(Image.fromarray(pixels), "PNG", exif=note)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(np.asarray(open_image(data, "x.png", OWN)), expected)


def test_metadata_that_cannot_be_read_are_a_note(monkeypatch, capsys):
    def odd(self: Image.Image) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(Image.Image, "getexif", odd)
    data = encoded(Image.new("RGB", (4, 3)), "PNG")
    assert open_image(data, "c.png", OWN).size == (4, 3)
    assert "note: c.png: its metadata cannot be read (odd)" in capsys.readouterr().err
    data = encoded(Image.new("RGB", (4, 3)), "PNG", exif=exif(0x010F, 3, 1)[:17])
    assert open_image(data, "a/b.png", OWN).size == (4, 3)
    assert "note: a/b.png: its metadata cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB with a colour key"])
def test_what_is_transparent_is_white(mode):
    """Its own colour is black, which must not be seen; half of it is opaque red."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = (255, 0, 0, 255)
    image, more = Image.fromarray(pixels), {}
    if mode == "LA":
        image = image.convert("LA")
    elif mode == "P":
        image, more = image.convert("RGB").quantize(4), {}
        more["transparency"] = image.getpixel((0, 0))
    elif mode != "RGBA":
        image, more = image.convert("RGB"), {"transparency": (0, 0, 0)}
    got = np.asarray(open_image(encoded(image, "PNG", **more), "x.png"))
    assert (got[:, :4] == 255).all() and not (got[:, 4:] == 255).all(-1).any()
    assert got[0, 7, 0] == (76 if mode == "LA" else 255)


def test_half_transparent_is_half_white():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert abs(int(np.asarray(open_image(encoded(image, "PNG"), "x.png"))[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize(
    ("values", "top", "note"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), 1, ""),
        (np.linspace(0, 255, 64, dtype=np.float32), 255, ""),
        (np.linspace(0, 255, 64).astype(np.int32), 255, ""),
        (np.linspace(0, 4095, 64).astype(np.uint16), 4095, "taken for 12 bits"),
        (np.linspace(0, 65535, 64).astype(np.uint16), 65535, ""),
        (np.linspace(0, 65535, 64).astype(np.int32), 65535, ""),
    ],
)
def test_numbers_of_more_than_eight_bits_keep_their_contrast(values, top, note, capsys):
    values = values.reshape(8, 8)
    got = np.asarray(open_image(encoded(Image.fromarray(values), "TIFF"), "x.tif"))[..., 0]
    assert np.abs(got - values.astype(float) * 255 / top).max() <= 0.51
    assert note in capsys.readouterr().err


@pytest.mark.parametrize("values", [np.float32([[-3.0, 9.0]]), np.float32([[0, 1e6]]), np.int32([[-1, 5]])])
def test_numbers_that_are_no_brightness_are_refused(values):
    with pytest.raises(DataError, match="x.tif: its numbers go from .* no usual range of brightness"):
        open_image(encoded(Image.fromarray(values), "TIFF"), "x.tif")


def chunk(kind: bytes, content: bytes, wrong: int = 0) -> bytes:
    checksum = zlib.crc32(kind + content) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


@pytest.mark.parametrize(
    "words",
    [
        chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(80_000_000))),
        chunk(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(bytes(80_000_000))),
        chunk(b"tEXt", b"note\0words", wrong=1),
        chunk(b"tIME", b"12", wrong=1),
        chunk(b"iCCP", b"no profile at all", wrong=1),
    ],
)
def test_texts_of_a_png_do_not_stop_its_pixels(words):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(pixels), "PNG")
    got, _ = decode_image(whole[:33] + words + whole[33:], "x.png", 7)
    assert np.array_equal(np.asarray(open_image(whole[:33] + words + whole[33:], "x.png")), pixels)
    assert got.shape == (3, 7, 7)


def test_pixels_that_are_broken_are_still_refused():
    whole = bytearray(
        encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)), "PNG")
    )
    whole[len(whole) // 2] ^= 1
    with pytest.raises(DataError, match="x.png: does not decode as an image"):
        open_image(bytes(whole), "x.png")


@pytest.mark.parametrize("colour", [(0, 0, 0), (12, 200, 7)])
def test_what_lies_behind_transparency_may_be_chosen(colour):
    data = encoded(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "PNG")
    assert (np.asarray(open_image(data, "x.png", Reading(background=colour))) == colour).all()


def large(form: str, **more: object) -> tuple[bytes, np.ndarray]:
    """A smooth image of more than `LARGE` pixels, and what it is at 16 × 12."""
    small = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    image = small.resize((10_000, LARGE // 10_000 + 200), Image.Resampling.BICUBIC)
    return encoded(image, form, **more), np.asarray(image.resize((16, 12), Image.Resampling.BILINEAR)).astype(float)


@pytest.mark.parametrize("turned", [False, True])
def test_a_large_photo_is_decoded_smaller_and_keeps_its_size_in_words(turned):
    note = Image.Exif()
    note[0x0112] = 6 if turned else 1
    data, expected = large("JPEG", quality=60, exif=note)
    image, size = read_image(data, "x.jpg", OWN)
    assert image.width * image.height < LARGE / 2 and sorted(size) == [LARGE // 10_000 + 200, 10_000]
    assert (size[0] < size[1]) == (image.width < image.height) == turned
    got = np.asarray((image.rotate(90, expand=True) if turned else image).resize((16, 12), Image.Resampling.BILINEAR))
    assert np.abs(got - expected).mean() < 3
    assert measure(data, "x.jpg") == (LARGE // 10_000 + 200, 10_000)


def test_the_limit_counts_what_is_held_in_memory_and_names_its_option():
    data, _ = large("JPEG", quality=60)
    with pytest.raises(
        DataError, match=r"x: 10000×6600 pixels are more than the 1,000 .*--set image.max_pixels=16500000"
    ):
        open_image(data, "x", Reading(max_pixels=1000))
    open_image(data, "x", Reading(max_pixels=16_500_000))
    data, _ = large("JPEG", quality=60, progressive=True)  # held whole by its decoder
    with pytest.raises(DataError, match=r"--set max_pixels=66000000 if you trust it"):
        open_image(data, "x", Reading(max_pixels=65_999_999, option="--set max_pixels"))


def test_of_many_notes_of_a_kind_three_are_given(capsys):
    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    for i in range(9):
        open_image(encoded(Image.fromarray(values), "TIFF"), f"{i}.tif")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and said[2].endswith("; no more such notes follow")


def test_what_libtiff_stumbles_over_is_one_sentence(capfd):
    data = bytearray(
        encoded(
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)),
            "TIFF",
            compression="tiff_lzw",
        )
    )
    data[60:120] = b"\xff" * 60
    with pytest.raises(DataError, match="x.tif: does not decode as an image"):
        open_image(bytes(data), "x.tif")
    print("heard", file=sys.stderr)
    assert capfd.readouterr().err == "heard\n"


@pytest.mark.parametrize("how", ["twice", "in XMP"])
def test_orientations_that_cameras_and_programs_write_elsewhere(how):
    block = exif(0x010F, 2, 1)[6:]
    if how == "twice":
        data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=b"Exif\0\0Exif\0\0" + block)
    else:
        other = struct.pack("<HHHII", 1, 0x0131, 2, 1, 65) + bytes(4)
        xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
        data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + other, xmp=xmp)
    assert open_image(data, "x.jpg", OWN).size == (4, 8)


def test_twelve_bits_in_deep_colours_are_refused_rather_than_black():
    rows = (np.arange(48, dtype=np.uint16) * 80).reshape(4, 12).astype(">u2")  # 4 pixels of RGB in a row, at most 3760
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="its 16 bits hold no more than 12"):
        open_image(data, "x.png")


def test_a_message_of_another_thread_waits_for_libtiff(capfd):
    with decode._silently():
        thread = threading.Thread(target=console.say, args=("heard",))
        thread.start()
        thread.join(0.05)
    thread.join()
    assert capfd.readouterr().err == "heard\n"
