"""Every dataset builder on small archives and folders in the public layouts, and on real data where it is at hand."""

import csv
import io
import json
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from layouts import Malicious, table, tarred, write
from PIL import Image

from fewshot_cli.data.datasets import glyphs
from fewshot_cli.data.layouts import class_split
from fewshot_cli.data.store import open_store


def tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.write_bytes(tarred(files, mode))
    return path


# CIFAR-FS and FC100


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, which is how the public CIFAR-100 was made."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, data: bytes) -> None:
        self.write(b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def python2_pickle(data: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(data)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def python3_pickle(data: object) -> bytes:
    return pickle.dumps(data, protocol=2)


CIFAR_CLASSES = sorted(cls for classes in class_split("cifar_fs").values() for cls in classes)


@pytest.fixture(scope="module")
def cifar_images(pixels) -> dict[str, list[np.ndarray]]:
    return {cls: [pixels(10 * i + k, 32, 32) for k in range(2)] for i, cls in enumerate(CIFAR_CLASSES)}


def cifar_files(images: dict[str, list[np.ndarray]], dump=python2_pickle, **replaced: bytes) -> dict[str, bytes]:
    """The public archive's members: one image of each class in `train`, the others in `test`."""

    def batch(part: str, pairs: list[tuple[int, np.ndarray]]) -> bytes:
        data = np.stack([p.transpose(2, 0, 1).ravel() for _, p in pairs])
        labels = [label for label, _ in pairs]
        return dump(
            {
                b"filenames": [b"x.png"] * len(pairs),
                b"batch_label": part.encode(),
                b"fine_labels": labels,
                b"coarse_labels": labels,
                b"data": data,
            }
        )

    names = list(images)
    files = {
        "file.txt~": b"",
        "train": batch("training batch 1 of 1", [(i, images[c][0]) for i, c in reversed(list(enumerate(names)))]),
        "test": batch("testing batch 1 of 1", [(i, p) for i, c in enumerate(names) for p in images[c][1:]]),
        "meta": dump({b"fine_label_names": [c.encode() for c in names], b"coarse_label_names": [b"fish"]}),
    }
    return {f"cifar-100-python/{k}": v for k, v in (files | replaced).items()}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(("dataset", "counts"), [("cifar_fs", (64, 16, 20)), ("fc100", (60, 20, 20))])
def test_cifar_archive_its_folder_and_class_folders_give_the_same_store(
    prepare, tmp_path, cifar_images, dataset, counts
):
    archive = tar(tmp_path / "cifar-100-python.tar.gz", cifar_files(cifar_images), "w:gz")
    newer = tar(tmp_path / "newer.tar.gz", cifar_files(cifar_images, python3_pickle), "w:gz")
    unpacked = write(tmp_path / "unpacked", cifar_files(cifar_images))
    other_order = {c: list(enumerate(reversed(images))) for c, images in cifar_images.items()}
    folders = write(tmp_path / "folders", {f"{c}/{k}.png": png(p) for c, ps in other_order.items() for k, p in ps})
    sources = [archive, newer, unpacked, unpacked / "cifar-100-python", folders]
    stores = [prepare(dataset, source) for source in sources]
    assert len({store.index["sha256"] for store in stores}) == 1
    assert {s: list(c) for s, c in table(stores[0]).items()} == class_split(dataset)
    assert tuple(len(c) for c in table(stores[0]).values()) == counts
    assert all(n == 2 for classes in table(stores[0]).values() for n in classes.values())
    test = stores[0].split("test")
    images, _ = test.decode(32)
    for cls, members in zip(test.classes, test.members(), strict=True):
        got = {images[i].permute(1, 2, 0).numpy().tobytes() for i in members}
        assert got == {p.tobytes() for p in cifar_images[cls]}


@pytest.mark.parametrize("member", ["train", "test", "meta"])
def test_a_malicious_pickle_in_a_cifar_archive_is_refused_and_not_run(refused, tmp_path, cifar_images, member):
    evil = pickle.dumps(Malicious(tmp_path / "ran"), protocol=2)
    archive = tar(tmp_path / "evil.tar.gz", cifar_files(cifar_images, **{member: evil}), "w:gz")
    said = refused("cifar_fs", archive)
    assert f"/{member}: is not a plain data pickle" in said and "wants to run" in said
    assert not (tmp_path / "ran").exists()
    pickle.loads(evil).close()
    assert (tmp_path / "ran").exists(), "the pickle would not have done anything anyway"


@pytest.mark.parametrize(
    "train",
    [
        b"",
        b"\x80",
        b"no pickle",
        pickle.dumps([]),
        pickle.dumps({b"data": 3}),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [0, 1]}),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [100]}),
        pickle.dumps({b"data": np.ones(9), b"fine_labels": [1]}),
    ],
)
def test_damaged_cifar_batches_are_refused(refused, tmp_path, cifar_images, train):
    archive = tar(tmp_path / "bad.tar", cifar_files(cifar_images, train=train))
    assert "download" in refused("cifar_fs", archive)


def test_missing_cifar_classes_are_counted_and_named(refused, tmp_path, cifar_images):
    some = {f"{c}/0.png": png(p[0]) for c, p in cifar_images.items() if c not in ("apple", "whale")}
    said = refused("cifar_fs", write(tmp_path / "some", some))
    assert "lacks 2 of CIFAR-100's 100 classes" in said and "apple" in said and "whale" in said
    assert "lacks 100 of" in refused("cifar_fs", write(tmp_path / "none", {"readme.txt": b""}))


def test_cifar_images_of_another_size_are_refused(refused, tmp_path, cifar_images, pixels):
    files = {f"{c}/0.png": png(p[0]) for c, p in cifar_images.items()} | {"bear/0.png": png(pixels(0, 32, 33))}
    assert re.search(r"bear/0\.png: is not 32×32", refused("fc100", write(tmp_path / "big", files)))


# Omniglot


def omniglot_files(encoded, folder: str, alphabets: list[str], characters: int = 2) -> dict[str, bytes]:
    seeds = iter(range(10_000))
    start = 0 if folder.endswith("background") else 5000
    return {
        f"{folder}/{a}/character{c:02d}/{c:04d}_{d:02d}.png": encoded(start + next(seeds))
        for a in alphabets
        for c in range(1, characters + 1)
        for d in (1, 2, 3)
    }


BACKGROUND, EVALUATION = [f"Alphabet_{x}" for x in "GABFCED"], ["Zeta", "Eta"]


@pytest.fixture(scope="module")
def omniglot(encoded) -> dict[str, dict[str, bytes]]:
    return {
        "images_background": omniglot_files(encoded, "images_background", BACKGROUND),
        "images_evaluation": omniglot_files(encoded, "images_evaluation", EVALUATION),
    }


def zips(folder: Path, parts: dict[str, dict[str, bytes]]) -> Path:
    folder.mkdir()
    for name, files in parts.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as out:
            for member, data in files.items():
                out.writestr(member, data)
    return folder


def test_omniglot_splits_by_alphabet_from_zips_or_folders(prepare, tmp_path, omniglot):
    packed = zips(tmp_path / "packed", omniglot)
    unpacked = tmp_path / "unpacked"
    for files in omniglot.values():
        write(unpacked, files)
    store = prepare("omniglot", packed)
    assert table(store) == {
        "train": {f"Alphabet_{a}/character0{c}": 3 for a in "AB" for c in (1, 2)},
        "val": {f"Alphabet_{a}/character0{c}": 3 for a in "CDEFG" for c in (1, 2)},
        "test": {f"{a}/character0{c}": 3 for a in ("Eta", "Zeta") for c in (1, 2)},
    }
    others = [
        prepare("omniglot", packed / "images_evaluation.zip", packed / "images_background.zip"),
        prepare("omniglot", unpacked),
        prepare("omniglot", unpacked / "images_background", unpacked / "images_evaluation"),
    ]
    assert {other.index["sha256"] for other in others} == {store.index["sha256"]}


def test_omniglot_without_one_of_its_zips_is_refused(refused, tmp_path, omniglot):
    packed = zips(tmp_path / "packed", {"images_background": omniglot["images_background"]})
    assert "has neither images_evaluation.zip nor images_evaluation/" in refused("omniglot", packed)
    assert "has neither images_background.zip" in refused("omniglot", tmp_path / "nowhere")


def test_omniglot_without_drawings_is_refused(refused, tmp_path, omniglot):
    packed = zips(tmp_path / "packed", omniglot | {"images_evaluation": {"images_evaluation/readme.txt": b""}})
    assert "images_evaluation.zip: holds no <alphabet>/<character>/<drawing>.png" in refused("omniglot", packed)


# CUB


CUB_CLASSES = {"001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross", "005.Crested_Auklet"}
CUB_SPLIT = {cls: split for split, classes in class_split("cub").items() for cls in classes if cls in CUB_CLASSES}


def cub_images(encoded) -> dict[str, bytes]:
    return {
        f"{cls}/bird_{k}.jpg": encoded(100 * i + k, 20 + k, 30, "JPEG")
        for i, cls in enumerate(sorted(CUB_CLASSES))
        for k in range(2)
    }


def cub_archive(images: dict[str, bytes], **replaced: bytes) -> dict[str, bytes]:
    numbered = list(enumerate(images, 1))
    files = {
        "README": b"",
        "classes.txt": "".join(f"{i} {c}\n" for i, c in enumerate(sorted(CUB_CLASSES), 1)).encode(),
        "images.txt": "".join(f"{i} {name}\n" for i, name in numbered).encode(),
        "bounding_boxes.txt": "".join(f"{i} {i}.0 2.0 {10 + i}.0 8.0\n" for i, _ in numbered).encode(),
    }
    return {f"CUB_200_2011/{k}": v for k, v in (files | replaced).items()} | {
        f"CUB_200_2011/images/{name}": data for name, data in images.items()
    }


def test_cub_archive_keeps_the_boxes_of_its_lists(prepare, tmp_path, encoded):
    images = cub_images(encoded)
    packed = prepare("cub", tar(tmp_path / "CUB_200_2011.tgz", cub_archive(images), "w:gz"))
    unpacked = prepare("cub", write(tmp_path, cub_archive(images)) / "CUB_200_2011")
    assert packed.index["sha256"] == unpacked.index["sha256"]
    assert table(packed) == {
        s: {c: 2 for c in sorted(CUB_SPLIT) if CUB_SPLIT[c] == s}
        for s in sorted(set(CUB_SPLIT.values()), key=["train", "val", "test"].index)
    }
    numbers = {name: i for i, name in enumerate(images, 1)}
    for part in packed.index["splits"].values():
        for name, box in zip(part["name"], part["box"], strict=True):
            i = numbers[name]
            assert box == [i, 2, i + 10 + i, 10]
    split = packed.split("train")
    assert split.decode(8, "box")[1][0].tolist() == [8, 10 + numbers[packed.index["splits"]["train"]["name"][0]]]
    assert split.decode(8, "raw")[1][0].tolist() == [20, 30]


def test_cub_class_folders_and_a_tar_of_them_are_the_same_without_boxes(prepare, tmp_path, encoded):
    images = cub_images(encoded)
    folder = write(tmp_path / "folders", images | {"not_a_bird/0.jpg": encoded(0, form="JPEG")})
    holder = tmp_path / "holder"
    holder.mkdir()
    archive = tar(holder / "birds.tar", {f"anything/{name}": data for name, data in images.items()})
    stores = [prepare("cub", folder), prepare("cub", archive), prepare("cub", holder)]
    assert len({store.index["sha256"] for store in stores}) == 1
    assert sum(len(classes) for classes in table(stores[0]).values()) == len(CUB_CLASSES)
    assert all(box is None for store in stores for part in store.index["splits"].values() for box in part["box"])
    assert stores[0].split("train").decode(8, "box")[1][0].tolist() == [20, 30]


@pytest.mark.parametrize("bad", ["1 2.0 3.0\n", "1 a b c d\n", "99 1.0 1.0 1.0 1.0\n", "1 nan 1.0 1.0 1.0\n"])
def test_cub_boxes_that_make_no_sense_are_refused(refused, tmp_path, encoded, bad):
    files = cub_archive(cub_images(encoded), **{"bounding_boxes.txt": bad.encode()})
    assert "bounding_boxes.txt is not in CUB's format" in refused("cub", tar(tmp_path / "x.tar", files))


def test_cub_without_any_of_its_classes_is_refused(refused, tmp_path, encoded):
    assert "none of CUB's 200 class folders" in refused("cub", write(tmp_path / "x", {"cat/0.jpg": encoded(0)}))


# Your own images


def zoo(encoded, classes: str = "abcdefghij", each: int = 2) -> dict[str, bytes]:
    return {f"{c}/{k}.png": encoded(50 * i + k) for i, c in enumerate(classes) for k in range(each)}


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_images_in_class_folders_are_split_by_the_seed_and_nothing_else(prepare, tmp_path, encoded):
    files = zoo(encoded)
    folder = write(tmp_path / "zoo", files)
    first = table(prepare("images", folder))
    assert {split: len(classes) for split, classes in first.items()} == {"train": 6, "val": 2, "test": 2}
    assert sorted(c for classes in first.values() for c in classes) == list("abcdefghij")
    assert all(list(classes) == sorted(classes) for classes in first.values())
    shuffled = tar(tmp_path / "zoo.tar.gz", dict(reversed(files.items())), "w:gz")
    assert table(prepare("images", shuffled)) == first == table(prepare("images", folder, split_seed=0))
    assert len({json.dumps(table(prepare("images", folder, split_seed=seed))) for seed in range(5)}) >= 4


def test_images_shares_decide_how_many_classes(prepare, refused, tmp_path, encoded):
    folder = write(tmp_path / "zoo", zoo(encoded))
    assert {s: len(c) for s, c in table(prepare("images", folder, val_share=0, test_share=0.5)).items()} == {
        "train": 5,
        "test": 5,
    }
    assert {s: len(c) for s, c in table(prepare("images", folder, val_share=0, test_share=1)).items()} == {"test": 10}
    assert "together exceed 1" in refused("images", folder, val_share=0.6, test_share=0.6)


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_images_in_split_folders_keep_their_split(prepare, tmp_path, encoded, val):
    where = dict(zip("abcde", ["train", "train", val, "test", "test"], strict=True))
    files = {f"{where[name[0]]}/{name}": data for name, data in zoo(encoded, "abcde").items()}
    want = {"train": {"a": 2, "b": 2}, "val": {"c": 2}, "test": {"d": 2, "e": 2}}
    assert table(prepare("images", tar(tmp_path / "x.tar", files))) == want
    assert table(prepare("images", write(tmp_path / "x", files))) == want


def test_images_in_split_folders_inside_one_more_folder_keep_their_split(prepare, tmp_path, encoded):
    where = dict(zip("abcde", ["train", "train", "val", "test", "test"], strict=True))
    files = {f"mine/{where[name[0]]}/{name}": data for name, data in zoo(encoded, "abcde").items()}
    assert table(prepare("images", tar(tmp_path / "x.tar", files))) == {
        "train": {"a": 2, "b": 2},
        "val": {"c": 2},
        "test": {"d": 2, "e": 2},
    }


def test_images_in_split_folders_beside_a_readme_keep_their_split(prepare, tmp_path, encoded):
    files = {
        f"mine/{split}/{split}_a/{k}.png": encoded(10 * i + k)
        for i, split in enumerate(("train", "val", "test"))
        for k in range(2)
    }
    store = prepare("images", write(tmp_path / "src", {**files, "mine/README.txt": b"hello"}))
    assert table(store) == {split: {f"{split}_a": 2} for split in ("train", "val", "test")}


def test_images_refuse_a_folder_beside_the_split_folders(refused, tmp_path, encoded):
    files = {
        f"{top}/{top}_a/{k}.png": encoded(10 * i + k)
        for i, top in enumerate(("train", "test", "extra"))
        for k in range(2)
    }
    assert "extra beside it is none" in refused("images", write(tmp_path / "src", files))


def test_images_refuse_a_class_in_two_split_folders(refused, tmp_path, encoded):
    files = {"train/a/0.png": encoded(0), "test/a/1.png": encoded(1)}
    assert "class a is in two splits" in refused("images", write(tmp_path / "x", files))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_images_from_a_csv_with_splits(prepare, tmp_path, encoded, encoding):
    write(
        tmp_path / "x", {"deep/er/1.png": encoded(1), "2.png": encoded(2), "3.png": encoded(3), "unlisted.png": b"junk"}
    )
    text = 'split,file,label,note\ntrain,deep/er/1.png,"café, noir",x\ntest,2.png,b,\ntest,3.png,b,\n'
    (tmp_path / "x" / "list.csv").write_text(text, encoding)
    assert table(prepare("images", tmp_path / "x" / "list.csv")) == {"train": {"café, noir": 1}, "test": {"b": 2}}


def test_images_from_a_csv_without_splits_are_split_by_the_seed(prepare, tmp_path, encoded):
    folder = write(tmp_path / "x", zoo(encoded))
    rows = [["file", "label"], *([name, name[0]] for name in zoo(encoded))]
    assert table(prepare("images", write_csv(folder / "list.csv", rows))) == table(prepare("images", folder))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([["where", "what"], ["1.png", "a"]], r"list\.csv:1: needs a header with the columns file,label"),
        ([], r"list\.csv:1: is empty"),
        ([["file", "label"]], "holds no images"),
        ([["file", "label"], ["1.png", "a"], ["gone.png", "a"]], r"list\.csv:3: gone\.png is no file in"),
        ([["file", "label"], ["1.png", ""]], r"list\.csv:2: file or label is empty"),
        ([["file", "label"], ["1.png"]], r"list\.csv:2: file or label is empty"),
        (
            [["file", "label", "split"], ["1.png", "a", "train"], ["2.png", "a", "test"]],
            r"csv:3: class a is in two splits",
        ),
        (
            [["file", "label", "split"], ["1.png", "a", "mine"]],
            r"list\.csv:2: split 'mine' is none of train, val, test",
        ),
        (
            [["file", "label", "split"], ["1.png", "a", "train"], ["2.png", "b", ""]],
            "class b has no split while others",
        ),
        (
            [["file", "label"], ["1.png", "a"], ["../secret.png", "a"]],
            r"csv:3: \.\./secret\.png leaves the CSV's folder",
        ),
        ([["file", "label"], ["/etc/passwd", "a"]], r"list\.csv:2: /etc/passwd leaves the CSV's folder"),
        ([["file", "label"], ["list.csv", "a"]], r"list\.csv: does not decode as an image"),
    ],
)
def test_images_refuse_a_bad_csv_with_its_line(refused, tmp_path, encoded, rows, sentence):
    write(tmp_path, {"secret.png": encoded(9), "x/1.png": encoded(1), "x/2.png": encoded(2)})
    said = refused("images", write_csv(tmp_path / "x" / "list.csv", rows), test_share=0, val_share=0)
    assert re.search(sentence, said), said


def test_images_refuse_a_csv_that_is_not_there_or_not_text(refused, tmp_path):
    assert "list.csv: No such file" in refused("images", tmp_path / "list.csv")
    (tmp_path / "list.csv").write_bytes(b"file,label\n\xff\xfe,a\n")
    assert "list.csv:2: is not UTF-8 text" in refused("images", tmp_path / "list.csv")


@pytest.mark.parametrize("separator", [", ", ";", "\t", " ,"])
def test_spaces_and_separators_of_a_csv_do_not_matter(prepare, tmp_path, encoded, separator):
    write(tmp_path / "x", {"a/1.png": encoded(1), "a/2.png": encoded(2), "b/3.png": encoded(3)})
    rows = [
        ("File", "Label", "Split"),
        ("a/1.png", "red", "train"),
        ("a\\2.png", "red", "Train"),
        ("b/3.png", "blue", "novel"),
    ]
    (tmp_path / "x" / "list.CSV").write_text("\ufeff" + "\r\n".join(separator.join(row) for row in rows))
    assert table(prepare("images", tmp_path / "x" / "list.CSV")) == {"train": {"red": 2}, "test": {"blue": 1}}


def test_a_csv_of_excel_and_one_with_a_row_for_each_box(prepare, tmp_path, encoded):
    write(tmp_path / "x", {"1.png": encoded(1), "2.png": encoded(2)})
    rows = (
        "sep=;",
        "file;class;class_name;split",
        "1.png;a;z;Training Set",
        "./1.png;a;z;train",
        "2.png;b;z;test",
        ";;;",
    )
    (tmp_path / "x" / "list.csv").write_text("\r\n".join(rows), encoding="utf-16")
    assert table(prepare("images", tmp_path / "x" / "list.csv")) == {"train": {"a": 1}, "test": {"b": 1}}


def test_a_file_with_two_labels_is_refused_with_its_line(refused, tmp_path, encoded):
    write(tmp_path, {"1.png": encoded(1)})
    rows = [["file", "label"], ["1.png", "a"], ["1.png", "b"]]
    assert "list.csv:3: 1.png has the label b, and a before" in refused(
        "images", write_csv(tmp_path / "list.csv", rows)
    )


def test_all_images_that_do_not_decode_are_named_in_one_run(refused, tmp_path, encoded):
    files = zoo(encoded) | {f"c/bad{i}.jpg": b"\xff\xd8\xff no" for i in range(3)}
    said = refused("images", write(tmp_path / "x", files))
    assert said.startswith("3 images cannot be used: ") and all(f"{tmp_path}/x/c/bad{i}.jpg" in said for i in range(3))
    assert said.endswith("Remove or replace them, or leave them out with --skip-bad")


def test_images_that_are_too_large_are_refused_with_the_option(refused, tmp_path, encoded):
    said = refused("images", write(tmp_path / "x", zoo(encoded)), max_pixels=63)
    assert "8×8 pixels are more than the 63" in said and "--set max_pixels=64" in said


def test_images_are_split_by_a_file(prepare, tmp_path, encoded):
    folder = write(tmp_path / "zoo", zoo(encoded, "abcd"))
    (tmp_path / "s.json").write_text(json.dumps({"train": ["d"], "val": ["b"], "test": ["c"]}))
    store = prepare("images", folder, splits=str(tmp_path / "s.json"))
    assert table(store) == {"train": {"d": 2}, "val": {"b": 2}, "test": {"c": 2}}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "No such file"),
        ("{", "is not a JSON file like"),
        ("[]", "is not a JSON file like"),
        ('{"train": 3}', "is not a JSON file like"),
        ('{"train": ["a", "unicorn"]}', "names class 'unicorn', of which the source has no images"),
        ("{}", "no images were found"),
        ('{"train": ["a", "b"], "test": ["a"]}', "class '?a'? is in two splits"),
        ('{"train": ["a"], "tests": ["b"]}', "tests"),
    ],
)
def test_images_refuse_a_bad_splits_file(refused, tmp_path, encoded, text, sentence):
    folder = write(tmp_path / "zoo", zoo(encoded, "ab"))
    if text is not None:
        (tmp_path / "s.json").write_text(text)
    said = refused("images", folder, splits=str(tmp_path / "s.json"))
    assert re.search(sentence, said), said


def test_images_refuse_a_source_without_images(refused, tmp_path):
    assert "holds no images in class folders; --from takes a folder" in refused(
        "images", write(tmp_path / "x", {"a/readme.txt": b"hello"})
    )
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused("images", tmp_path / "empty")


def test_images_name_the_image_that_does_not_decode(refused, tmp_path, encoded):
    files = zoo(encoded) | {"c/broken.jpg": b"\xff\xd8\xff not really"}
    assert "c/broken.jpg: does not decode as an image" in refused("images", write(tmp_path / "x", files))


# Glyphs


def test_a_glyph_class_is_drawn_the_same_every_time():
    first = glyphs.draw_class(7)
    assert first.shape == (glyphs.PER_CLASS, glyphs.SIDE, glyphs.SIDE, 3) and first.dtype == np.uint8
    glyphs.draw_class(8)
    assert np.array_equal(first, glyphs.draw_class(7))


def test_glyphs_differ_between_and_within_classes_and_use_the_whole_range():
    one, two = glyphs.draw_class(0), glyphs.draw_class(1)
    images = np.concatenate([one, two]).reshape(2 * glyphs.PER_CLASS, -1)
    assert len(np.unique(images, axis=0)) == 2 * glyphs.PER_CLASS
    assert one.min() < 10 and one.max() > 245 and one.std() > 40


def test_glyphs_have_the_recorded_bytes(glyph_root):
    store = open_store(glyph_root, "glyphs")
    assert {s: set(c.values()) for s, c in table(store).items()} == {s: {glyphs.PER_CLASS} for s in glyphs.CLASSES}
    assert {s: len(c) for s, c in table(store).items()} == glyphs.CLASSES
    assert store.index["sha256"] == glyphs.SHA256


# The real ones


def test_the_whole_of_omniglot(shared, prepare):
    store = prepare("omniglot", shared / "omniglot")
    counts = table(store)
    assert len(counts["train"]) + len(counts["val"]) == 964 and len(counts["test"]) == 659
    assert {n for classes in counts.values() for n in classes.values()} == {20}
    assert len({c.split("/")[0] for c in counts["train"]}) == 25 and len({c.split("/")[0] for c in counts["val"]}) == 5
    report = store.index["report"]
    assert report["classes_in_several_splits"] == []
    assert {tuple(r["min_side"]) for r in report["splits"].values()} == {(105, 105)}


def test_the_birds_at_hand(shared, prepare):
    store = prepare("cub", shared / "cub127")
    counts = table(store)
    assert {split: len(classes) for split, classes in counts.items()} == {"train": 61, "val": 37, "test": 29}
    assert sum(n for classes in counts.values() for n in classes.values()) == 7456
    assert store.split("test").decode(32)[0].float().std() > 30
