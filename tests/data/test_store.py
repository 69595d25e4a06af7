"""The packed store: what goes in comes out, and a store that is not whole is never read."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_cli.data.decode import Reading, decode_image, measure, open_image
from fewshot_cli.data.store import open_store
from fewshot_cli.data.writer import StoreWriter
from fewshot_cli.errors import DataError

INFO = {"dataset": "Test", "licence": "", "sources": []}


def write(root: Path, rows: list[tuple], name: str = "tiny") -> dict:
    with StoreWriter(root, name, dict(INFO)) as writer:
        for row in rows:
            writer.add(*row)
        return writer.finish()


@pytest.fixture
def rows(pixels) -> list[tuple]:
    """Three splits, five classes, two raw images each."""
    where = [("train", "a"), ("train", "b"), ("val", "c"), ("test", "d"), ("test", "e")]
    return [(split, cls, pixels(2 * i + k), f"{cls}/{k}") for i, (split, cls) in enumerate(where) for k in range(2)]


@pytest.fixture
def tiny(tmp_path, rows) -> Path:
    write(tmp_path, rows)
    return tmp_path / "tiny"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_raw_images_come_back_bit_for_bit(tmp_path, pixels):
    sides = [(8, 8), (8, 8), (5, 9), (8, 8)]
    originals = [pixels(i, *side) for i, side in enumerate(sides)]
    write(
        tmp_path,
        [
            ("train", "a", originals[0], "0"),
            ("train", "a", originals[1], "1"),
            ("train", "b", originals[2], "2"),
            ("test", "c", originals[3], "3"),
        ],
    )
    opened = open_store(tmp_path, "tiny")
    train, test = opened.split("train"), opened.split("test")
    assert train.classes == ["a", "b"] and train.labels.tolist() == [0, 0, 1] and len(test) == 1
    assert [m.tolist() for m in train.members()] == [[0, 1], [2]]
    images, sizes = train.decode(8)
    assert images.dtype == torch.uint8 and images.shape == (3, 3, 8, 8)
    assert sizes.tolist() == [[8, 8], [8, 8], [5, 9]]
    for got, want in zip(images[:2], originals[:2], strict=True):
        assert np.array_equal(got.permute(1, 2, 0).numpy(), want)
    squashed = Image.fromarray(originals[2]).resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(images[2].permute(1, 2, 0).numpy(), np.array(squashed))
    assert np.array_equal(test.decode(8)[0][0].permute(1, 2, 0).numpy(), originals[3])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF"])
def test_encoded_images_come_back_as_pillow_decodes_them(tmp_path, encoded, form):
    files = [encoded(i, 9, 7, form) for i in range(3)]
    report = write(tmp_path, [("train", "a", data, f"{i}.{form}") for i, data in enumerate(files)])
    row = report["splits"]["train"]
    assert (row["classes"], row["images"], row["min_side"], row["max_side"]) == (1, 3, [9, 7], [9, 7])
    split = open_store(tmp_path, "tiny").split("train")
    assert (tmp_path / "tiny" / "images.bin").read_bytes() == b"".join(files)
    images, sizes = split.decode(12)
    for got, size, data in zip(images, sizes, files, strict=True):
        want = Image.open(io.BytesIO(data)).convert("RGB").resize((12, 12), Image.Resampling.BILINEAR)
        assert np.array_equal(got.permute(1, 2, 0).numpy(), np.array(want)) and size.tolist() == [9, 7]
        assert torch.equal(got, decode_image(data, "it", 12)[0])


def test_a_box_is_cropped_to_and_can_be_left_alone(tmp_path, encoded, pixels):
    write(
        tmp_path,
        [("train", "a", encoded(0, 10, 12), "boxed", (2, 3, 8, 9)), ("train", "a", encoded(1, 10, 12), "whole")],
    )
    split = open_store(tmp_path, "tiny").split("train")
    images, sizes = split.decode(6, "box")
    assert sizes.tolist() == [[6, 6], [10, 12]]
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), pixels(0, 10, 12)[3:9, 2:8])
    images, sizes = split.decode(6, "raw")
    assert sizes.tolist() == [[10, 12], [10, 12]]
    whole = Image.fromarray(pixels(0, 10, 12)).resize((6, 6), Image.Resampling.BILINEAR)
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), np.array(whole))


def test_grey_palette_and_transparent_images_become_rgb(tmp_path):
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    data = []
    for image in (grey, grey.convert("P"), grey.convert("1"), grey.convert("RGBA"), grey.convert("LA")):
        file = io.BytesIO()
        image.save(file, "PNG")
        data.append(file.getvalue())
    write(tmp_path, [("train", "a", d, str(i)) for i, d in enumerate(data)])
    images, _ = open_store(tmp_path, "tiny").split("train").decode(8)
    assert images.shape == (5, 3, 8, 8)
    for i in (0, 1, 3, 4):
        assert np.array_equal(images[i, 0].numpy(), np.array(grey))


def test_the_report_counts_duplicates_and_shared_classes(tmp_path, pixels):
    report = write(
        tmp_path,
        [
            ("train", "a", pixels(0), "0"),
            ("train", "a", pixels(0), "1"),
            ("train", "a", pixels(1), "2"),
            ("train", "b", pixels(2), "3"),
            ("val", "c", pixels(3), "4"),
            ("val", "b", pixels(4), "5"),
            ("test", "d", pixels(1), "6"),
            ("test", "d", pixels(5), "7"),
        ],
    )
    assert report["duplicates"] == 2
    assert report["duplicates_across_splits"] == 1
    assert report["example_duplicates"] == [["train/a/2", "test/d/6"]]
    assert report["classes_in_several_splits"] == ["b"]
    train = report["splits"]["train"]
    assert (train["classes"], train["images"], train["smallest_class"], train["largest_class"]) == (2, 4, 1, 3)
    assert open_store(tmp_path, "tiny").index["report"] == report


def test_a_clean_store_reports_no_duplicates(tmp_path, rows):
    report = write(tmp_path, rows)
    assert report["duplicates"] == report["duplicates_across_splits"] == 0
    assert report["example_duplicates"] == report["classes_in_several_splits"] == []


def test_the_hash_depends_on_images_labels_and_boxes_but_not_on_names(tmp_path, encoded):
    def digest(name: str, *rows: tuple) -> str:
        return write(tmp_path, list(rows), name)["sha256"]

    base = digest("base", ("train", "a", encoded(0), "x"), ("train", "b", encoded(1), "y"))
    assert base == digest("names", ("train", "a", encoded(0), "p"), ("train", "b", encoded(1), "q"))
    others = {
        digest("image", ("train", "a", encoded(2), "x"), ("train", "b", encoded(1), "y")),
        digest("label", ("train", "a", encoded(0), "x"), ("train", "a", encoded(1), "y")),
        digest("class", ("train", "a", encoded(0), "x"), ("train", "c", encoded(1), "y")),
        digest("box", ("train", "a", encoded(0), "x"), ("train", "b", encoded(1), "y", (0, 0, 4, 4))),
    }
    assert len(others) == 4 and base not in others


@pytest.mark.parametrize("gone", ["index.json", "images.bin"])
def test_half_a_store_is_refused(tiny, gone):
    (tiny / gone).unlink()
    with pytest.raises(DataError, match="not a whole store.*--force"):
        open_store(tiny.parent, "tiny")


BUILDS = """\
import sys, time, numpy
from pathlib import Path
from fewshot_cli.data.writer import StoreWriter
with StoreWriter(Path(sys.argv[1]), "tiny", {"dataset": "Images", "licence": "none", "sources": []}) as writer:
    writer.add("train", "a", numpy.zeros((4, 4, 3), numpy.uint8), "0")
    print("begun", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_build_left_is_no_store_and_goes_with_the_next_one_once_its_owner_is_gone(tmp_path, rows):
    with subprocess.Popen([sys.executable, "-c", BUILDS, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "begun\n"
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".tiny.") and left.name.endswith(".part")
        with pytest.raises(DataError, match="is not prepared; run `fsl prepare images --from FOLDER --name tiny`"):
            open_store(tmp_path, "tiny")
        write(tmp_path, rows)
        assert sorted(p.name for p in tmp_path.iterdir()) == [left.name, "tiny"]  # it is still at work
        other.kill()
        other.wait()
        assert left.exists()
    write(tmp_path, rows)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    assert len(open_store(tmp_path, "tiny").split("train")) == 4


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": 1'])
def test_a_damaged_index_is_refused(tiny, text):
    (tiny / "index.json").write_text(text)
    with pytest.raises(DataError, match="--force"):
        open_store(tiny.parent, "tiny")


def test_an_index_without_its_columns_is_refused(tiny):
    (tiny / "index.json").write_text(json.dumps({"format": 1, "bytes": (tiny / "images.bin").stat().st_size}))
    with pytest.raises(DataError, match="--force"):
        open_store(tiny.parent, "tiny").split("train")


def test_a_flipped_byte_is_found_in_the_split_that_has_it(tiny):
    size = (tiny / "images.bin").stat().st_size
    flip(tiny / "images.bin", size - 1)  # the last image: test
    opened = open_store(tiny.parent, "tiny")
    assert len(opened.split("train").decode(8)[0]) == 4
    with pytest.raises(DataError, match="the test images do not match.*fsl prepare tiny --force"):
        opened.split("test").decode(8)


@pytest.mark.parametrize("at", [0, 191, 192, 500])
def test_a_flipped_byte_anywhere_is_found(tiny, at):
    flip(tiny / "images.bin", at)
    with pytest.raises(DataError, match="damaged"):
        open_store(tiny.parent, "tiny").split("train").decode(8)


@pytest.mark.parametrize(("column", "value"), [("label", 1), ("size", 191), ("shape", [4, 16]), ("box", [0, 0, 2, 2])])
def test_a_changed_column_of_the_index_is_found(tiny, column, value):
    index = json.loads((tiny / "index.json").read_text())
    index["splits"]["train"][column][0] = value
    (tiny / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="damaged"):
        open_store(tiny.parent, "tiny").split("train").decode(8)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_images_are_refused(tiny, keep):
    data = (tiny / "images.bin").read_bytes()
    (tiny / "images.bin").write_bytes(data[:keep])
    with pytest.raises(DataError, match=rf"has {len(data[:keep])} bytes, its index says {len(data)}"):
        open_store(tiny.parent, "tiny")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(tiny, version):
    index = json.loads((tiny / "index.json").read_text())
    index["format"] = version
    (tiny / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=f"store format {version}, this version reads 1.*--force"):
        open_store(tiny.parent, "tiny")


def test_a_missing_split_names_those_there_are(tmp_path, pixels):
    write(tmp_path, [("train", "a", pixels(0), "0"), ("val", "b", pixels(1), "1")])
    with pytest.raises(DataError, match=r"has no test split \(it has train, val\)"):
        open_store(tmp_path, "tiny").split("test")


def test_nothing_remains_of_a_build_that_fails_half_way(tmp_path, rows):
    with pytest.raises(ZeroDivisionError), StoreWriter(tmp_path, "tiny", dict(INFO)) as writer:
        for row in rows:
            writer.add(*row)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_nothing_remains_when_no_image_was_added(tmp_path):
    with pytest.raises(DataError, match="tiny: no images were found"):
        write(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 8, 40, -60])
def test_an_image_that_does_not_decode_is_named_and_nothing_remains(tmp_path, encoded, cut):
    with pytest.raises(DataError, match="a/bad.png: does not decode"):
        write(tmp_path, [("train", "a", encoded(0), "a/good.png"), ("train", "a", encoded(1)[:cut], "a/bad.png")])
    assert list(tmp_path.iterdir()) == []


def test_an_image_of_absurd_size_is_refused_before_it_is_decoded(encoded):
    how = Reading(max_pixels=99)
    assert measure(encoded(0, 9, 11), "fits", how) == (9, 11)
    with pytest.raises(DataError, match="big: 10×10 pixels are more than the 99 .*--set image.max_pixels=100"):
        measure(encoded(0, 10, 10)[:60], "big", how)


def test_replacing_a_store_works_and_leaves_nothing_else(tmp_path, rows, pixels):
    old = write(tmp_path, rows)
    new = write(tmp_path, [("train", "z", pixels(99), "0")])
    assert old["sha256"] != new["sha256"]
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    split = open_store(tmp_path, "tiny").split("train")
    assert split.classes == ["z"]
    assert np.array_equal(split.decode(8)[0][0].permute(1, 2, 0).numpy(), pixels(99))


def test_a_replacement_that_meets_a_full_disk_keeps_the_old_store(tmp_path, rows, pixels, monkeypatch):
    old = write(tmp_path, rows)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="tiny: the disk is full"):
            write(tmp_path, [("train", "z", pixels(99), "0")])
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    opened = open_store(tmp_path, "tiny")
    assert opened.index["sha256"] == old["sha256"] and len(opened.split("test").decode(8)[0]) == 4


def test_a_replacement_whose_last_rename_fails_keeps_the_old_store(tmp_path, rows, pixels, monkeypatch):
    old = write(tmp_path, rows)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(DataError):
            write(tmp_path, [("train", "z", pixels(99), "0")])
    assert open_store(tmp_path, "tiny").index["sha256"] == old["sha256"]


def test_a_store_can_be_moved(tiny, tmp_path):
    shutil.move(tiny, tmp_path / "elsewhere" / "other")
    assert len(open_store(tmp_path / "elsewhere", "other").split("train").decode(8)[0]) == 4


def test_splits_and_classes_that_come_back_and_mixed_encodings_are_programming_errors(tmp_path, pixels, encoded):
    for rows, reason in [
        ([("train", "a", pixels(0), ""), ("val", "b", pixels(1), ""), ("train", "a", pixels(2), "")], "split train"),
        ([("train", "a", pixels(0), ""), ("train", "b", pixels(1), ""), ("train", "a", pixels(2), "")], "class a"),
        ([("train", "a", pixels(0), ""), ("train", "a", encoded(1), "")], "do not mix"),
    ]:
        with pytest.raises(ValueError, match=reason):
            write(tmp_path, rows)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_is_not_replaced(tmp_path, rows):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "holiday.png").write_bytes(b"an image")
    with pytest.raises(DataError, match="is not a store and will not be replaced"):
        write(tmp_path, rows)
    with pytest.raises(DataError, match="is not a store; choose another"):
        open_store(tmp_path, "tiny")
    assert (tmp_path / "tiny" / "holiday.png").read_bytes() == b"an image"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_sixteen_bit_images_keep_their_contrast(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)).save(file, "PNG")
    got = np.asarray(open_image(file.getvalue(), "x.png"))
    assert got.min() == 0 and got.max() == 255 and len(np.unique(got)) > 50


def test_programs_that_pillow_would_run_are_not(tmp_path):
    with pytest.raises(DataError, match="no known format"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "x.png")


def test_a_users_images_are_turned_as_the_camera_says(tmp_path):
    """A published dataset's are not: its figures were made without."""
    from fewshot_cli import registry
    from fewshot_cli.config.schema import ImageSpec
    from fewshot_cli.data.prepare import build_store
    from fewshot_cli.data.user_images import Folder

    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, :20] = 255  # white on the left; turned by a quarter it is on top
    exif = Image.Exif()
    exif[0x0112] = 6
    for cls in ("a", "b"):
        (tmp_path / "mine" / cls).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(np.where(wide, 255 - i, i).astype(np.uint8)).save(
                tmp_path / "mine" / cls / f"{i}.png", exif=exif
            )
    pixels, sizes = Folder(tmp_path / "mine", "--support", ImageSpec()).decode(8)
    assert sizes[0].tolist() == [40, 20] and pixels[0, :, :3].min() > 200 > pixels[0, :, 5:].max()
    own = registry.dataset("images")
    build_store("images", own(own.Options(test_share=0.5, val_share=0.0)), [tmp_path / "mine"], tmp_path)
    stored, sizes = open_store(tmp_path, "images").split("test").decode(8)
    assert sizes[0].tolist() == [40, 20] and stored[0, :, :3].min() > 200
