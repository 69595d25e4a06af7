"""ILSVRC2012 from small copies of its public layouts, and what must not pass for it."""

import io
import random
from collections import Counter

import numpy as np
import pytest
from layouts import saved, tarred, write, zipped
from scipy.io import savemat

from fewshot_cli.data.datasets import ilsvrc

CLASSES = ("n01440764", "n01751748", "n15075141")
NUMBERS = {
    "n01440764": (5, 12, 100),
    "n01751748": (12, 1000),
    "n15075141": (9, 20, 100, 3000),
}  # as text 100 is before 12
OF_VAL = dict(enumerate(random.Random(0).sample(2 * CLASSES, 6), 1))
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
SYNSETS = {1: CLASSES[2], 2: CLASSES[0], 3: CLASSES[1], 4: "n00000001"}  # the kit's order is another one


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Three classes, nine training and six validation images."""
    monkeypatch.setattr(ilsvrc.ILSVRC2012, "classes", 3)
    monkeypatch.setattr(ilsvrc.ILSVRC2012, "published", {"train": 9, "test": 6})


@pytest.fixture(scope="module")
def train(encoded) -> dict[str, bytes]:
    return {
        f"{wnid}/{wnid}_{n}.JPEG": encoded(10 * i + k, form="JPEG")
        for i, wnid in enumerate(CLASSES)
        for k, n in enumerate(NUMBERS[wnid])
    }


@pytest.fixture(scope="module")
def val(encoded) -> dict[str, bytes]:
    """The images of ILSVRC2012_img_val.tar."""
    return {f"ILSVRC2012_val_{k:08d}.JPEG": encoded(1000 + k, form="JPEG") for k in OF_VAL}


def number(name: str) -> int:
    return int(name[-13:-5])


def in_classes(val: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{OF_VAL[number(name)]}/{name}": data for name, data in val.items()}


def class_tars(files: dict[str, bytes]) -> dict[str, bytes]:
    return {
        f"{wnid}.tar": tarred({n.partition("/")[2]: d for n, d in files.items() if n.startswith(wnid)})
        for wnid in {n.partition("/")[0] for n in files}
    }


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


SYNSET_LINES = "".join(f"{wnid}\n" for wnid in OF_VAL.values()).encode()
SOLUTION = (
    b"ImageId,PredictionString\n"
    + "".join(
        f"ILSVRC2012_val_{k:08d},{wnid} 85 1 499 272 {wnid} 1 2 3 4\n" for k, wnid in reversed(OF_VAL.items())
    ).encode()
)


def kit(synsets: dict[int, str] = SYNSETS, lines: bytes | None = None) -> dict[str, bytes]:
    """The development kit's two files about validation images."""
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = np.array([(float(k), wnid, "a, b", 0.0) for k, wnid in synsets.items()], dtype=kinds)
    file = io.BytesIO()
    savemat(file, {"synsets": rows.reshape(-1, 1)}, do_compression=True)
    ids = {wnid: k for k, wnid in SYNSETS.items()}
    truth = lines if lines is not None else "".join(f"{ids[wnid]}\n" for wnid in OF_VAL.values()).encode()
    return {f"ILSVRC2012_devkit_t12/data/{META}": file.getvalue(), f"ILSVRC2012_devkit_t12/data/{TRUTH}": truth}


def official(train, val, labels: dict[str, bytes]) -> dict[str, bytes]:
    return {ilsvrc.TRAIN: tarred(class_tars(train)), ilsvrc.VAL: tarred(val)} | labels


def labelled_by_lines(train, val) -> dict[str, bytes]:
    return below("train", train) | below("val", val) | {"imagenet_2012_validation_synset_labels.txt": SYNSET_LINES}


def test_every_layout_gives_the_same_store_of_the_bytes_as_they_are(prepare, tmp_path, train, val, encoded):
    usual = below("train", train) | below("val", in_classes(val))
    kaggle = below(
        "ILSVRC/Data/CLS-LOC",
        below("train", train) | below("val", val) | {"test/ILSVRC2012_test_00000001.JPEG": encoded(9000, form="JPEG")},
    ) | {"LOC_val_solution.csv": SOLUTION}
    stray = {"n01440764/n02000000_1.JPEG": encoded(1)}
    packed_kit = {ilsvrc.DEVKIT: tarred(kit(), "w:gz")}
    sources = [
        write(tmp_path / "usual", usual | {"train/n02000000/n02000000_1.JPEG": encoded(1)}),  # of no class of 2012
        saved(tmp_path / "usual.tar", tarred(below("imagenet", usual))),
        saved(tmp_path / "one" / "usual.zip", zipped(usual)).parent,
        write(tmp_path / "half", below("train", class_tars(train | stray)) | below("val", in_classes(val))),
        write(tmp_path / "lines", labelled_by_lines(train, val)),
        write(tmp_path / "kaggle", kaggle),
        saved(tmp_path / "kaggle.tar.gz", tarred(kaggle, "w:gz")),
        write(tmp_path / "official", official(train, val, packed_kit)),
        write(tmp_path / "kit", official(train, val, kit())),
        write(tmp_path / "text", official(train, val, {"imagenet_2012_validation_synset_labels.txt": SYNSET_LINES})),
    ]
    stores = [prepare("ilsvrc2012", source) for source in sources]
    bare = write(tmp_path / "bare", official(train, val, {}))
    mine = saved(tmp_path / "mine.txt", "".join(f"{n} {OF_VAL[number(n)]}\n" for n in val).encode())
    unpacked = write(tmp_path / "unpacked", kit()) / "ILSVRC2012_devkit_t12"
    for labels in (mine, unpacked, unpacked / "data" / TRUTH, tmp_path / "official" / ilsvrc.DEVKIT):
        stores.append(prepare("ilsvrc2012", bare, labels=str(labels)))
    assert len({store.index["sha256"] for store in stores}) == 1
    splits = stores[0].index["splits"]
    assert {s: dict(Counter(p["classes"][i] for i in p["label"])) for s, p in splits.items()} == {
        "train": {wnid: len(NUMBERS[wnid]) for wnid in CLASSES},
        "test": dict.fromkeys(CLASSES, 2),
    }
    assert [p["classes"] for p in splits.values()] == [list(CLASSES)] * 2
    assert splits["train"]["name"] == [f"{wnid}/{wnid}_{n}.JPEG" for wnid in CLASSES for n in NUMBERS[wnid]]
    ordered = [name for wnid in CLASSES for name in val if OF_VAL[number(name)] == wnid]
    images = [*(train[name] for name in splits["train"]["name"]), *(val[name] for name in ordered)]
    assert (stores[0].path / "images.bin").read_bytes() == b"".join(images)
    assert stores[0].index["encoding"] == "encoded"


def test_images_that_are_missing_or_twice_are_refused(refused, tmp_path, train, val):
    usual = below("train", train) | below("val", in_classes(val))
    gone = {n: d for n, d in usual.items() if not n.endswith(("n15075141_20.JPEG", "n15075141_9.JPEG"))}
    assert "has 7 images named like n01440764_18.JPEG of ILSVRC2012's classes, its training set has 9" in refused(
        "ilsvrc2012", write(tmp_path / "a", gone)
    )
    few = {n: d for n, d in train.items() if not n.endswith("_12.JPEG")}
    said = refused("ilsvrc2012", write(tmp_path / "b", official(few, val, {"LOC_val_solution.csv": SOLUTION})))
    assert f"{ilsvrc.TRAIN}: has 7 images named like" in said
    no_class = {n: d for n, d in usual.items() if not n.startswith("train/n01751748")}
    assert "lacks 1 of ILSVRC2012's 3 classes (n01751748)" in refused("ilsvrc2012", write(tmp_path / "c", no_class))
    assert "holds no image of ILSVRC2012's 3 classes" in refused(
        "ilsvrc2012", write(tmp_path / "d", below("val", in_classes(val)))
    )
    no_val = {n: d for n, d in usual.items() if not n.endswith("ILSVRC2012_val_00000004.JPEG")}
    assert "has 5 validation images named like ILSVRC2012_val_00000001.JPEG, ILSVRC2012 has 6" in refused(
        "ilsvrc2012", write(tmp_path / "e", no_val)
    )
    assert "has 0 validation images" in refused("ilsvrc2012", write(tmp_path / "f", below("train", train)))
    twice = usual | below("small", in_classes(val))
    assert "has validation image 1 twice (" in refused("ilsvrc2012", write(tmp_path / "g", twice))
    assert "has an image of class n01440764 twice" in refused(
        "ilsvrc2012", write(tmp_path / "h", below("small", class_tars(train)) | usual | below("train2", train))
    )
    moved = {
        n.replace(f"{OF_VAL[1]}/ILSVRC2012_val_00000001", "n00000001/ILSVRC2012_val_00000001"): d
        for n, d in usual.items()
    }
    assert "puts 1 validation images into class n00000001" in refused("ilsvrc2012", write(tmp_path / "i", moved))


def test_damaged_archives_and_images_are_named(refused, tmp_path, train, val):
    tars = class_tars(train)
    tars["n01751748.tar"] = tars["n01751748.tar"][:700]
    files = official(train, val, {"LOC_val_solution.csv": SOLUTION})
    outer = write(tmp_path / "a", files | {ilsvrc.TRAIN: tarred(tars)})
    assert f"{ilsvrc.TRAIN}/n01751748.tar: is truncated or damaged" in refused("ilsvrc2012", outer)
    cut = write(tmp_path / "b", files | {ilsvrc.VAL: files[ilsvrc.VAL][:1500]})
    assert f"{ilsvrc.VAL}: is truncated or damaged" in refused("ilsvrc2012", cut)
    broken = below("train", train) | below("val", in_classes(val | {"ILSVRC2012_val_00000002.JPEG": b"\xff\xd8\xff"}))
    assert "ILSVRC2012_val_00000002.JPEG: does not decode" in refused("ilsvrc2012", write(tmp_path / "c", broken))
    said = refused("ilsvrc2012", saved(tmp_path / "d.zip", zipped(files)))
    assert f"d.zip: holds {ilsvrc.TRAIN}, an archive of its own; unpack the outer one" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "has classes for 0 validation images, there are 6"),
        (SYNSET_LINES[:-10], "has classes for 5 validation images, there are 6"),
        (SYNSET_LINES + b"n01440764\n", "has classes for 7 validation images, there are 6"),
        (SYNSET_LINES.replace(b"n01751748", b"n01440764"), "puts 4 validation images into class n01440764"),
        (b"n01440764\ncat\n", ":2: 'cat' is neither a class such as n01751748 nor a validation image's name"),
        (b"dog.jpg n01440764\n", ":1: 'dog.jpg n01440764' is neither"),
        (b"ILSVRC2012_val_00000001.JPEG 65\n", ":1: 'ILSVRC2012_val_00000001.JPEG 65' is neither"),
        (b"ILSVRC2012_val_00000001\n", ":1: 'ILSVRC2012_val_00000001' is neither"),
        (2 * b"ILSVRC2012_val_00000001,n01440764\n", ":2: validation image 1 has a class already"),
        (b"490\n", ":1: 490 is a number that meta.mat of ILSVRC2012_devkit_t12.tar.gz explains; put that beside it"),
        (b"\xff\xfe\xff", "is not a text of labels"),
    ],
)
def test_labels_that_make_no_sense_are_refused(refused, tmp_path, train, val, text, sentence):
    files = official(train, val, {"imagenet_2012_validation_synset_labels.txt": text})
    assert sentence in refused("ilsvrc2012", write(tmp_path / "x", files))
    mine = saved(tmp_path / "mine.txt", text)
    said = refused("ilsvrc2012", write(tmp_path / "y", official(train, val, {})), labels=str(mine))
    assert sentence in said and str(mine) in said


def test_labels_that_are_not_there_are_asked_for(refused, fsl, tmp_path, train, val):
    bare = write(tmp_path / "x", official(train, val, {}))
    said = refused("ilsvrc2012", bare)
    assert (
        "none of imagenet_2012_validation_synset_labels.txt, LOC_val_solution.csv" in said
        and "--set labels=FILE" in said
    )
    for name in ("nowhere.txt", "nowhere.tar.gz"):
        assert (
            f"{name}: " in (said := refused("ilsvrc2012", bare, labels=str(tmp_path / name)))
            and "exist" in said
            or "No such" in said
        )
    (tmp_path / "empty").mkdir()
    assert "put one beside them or give" in refused("ilsvrc2012", bare, labels=str(tmp_path / "empty"))
    code, _, err = fsl("prepare", "ilsvrc2012")
    assert (
        code == 3
        and "ImageNet's training and validation images of 2012" in err
        and "fsl show dataset ilsvrc2012" in err
    )
    code, out, _ = fsl("show", "dataset", "ilsvrc2012")
    assert code == 0 and ilsvrc.TRAIN in out and "LOC_val_solution.csv" in out


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({META: b""}, f"{META}: is not the development kit's list of classes"),
        ({META: b"MATLAB 5.0 MAT-file" + bytes(300)}, f"{META}: is not the development kit's list of classes"),
        ({META: bytes(ilsvrc.MAX_META + 1)}, f"{META}: has 1,048,577 bytes"),
        ({META: kit(dict.fromkeys(SYNSETS, "dog"))[f"ILSVRC2012_devkit_t12/data/{META}"]}, "' is neither a class"),
        ({META: kit({1: CLASSES[0]})[f"ILSVRC2012_devkit_t12/data/{META}"]}, f"{META}: is not the development kit's"),
        ({TRUTH: b"1\n2\n5\n"}, f"{TRUTH}:3: '5' is neither a class"),
    ],
)
def test_damaged_development_kits_are_named(refused, tmp_path, train, val, replaced, sentence):
    files = kit() | below("ILSVRC2012_devkit_t12/data", replaced)
    source = write(tmp_path / "x", official(train, val, {ilsvrc.DEVKIT: tarred(files, "w:gz")}))
    said = refused("ilsvrc2012", source)
    assert sentence in said and f"{ilsvrc.DEVKIT}/ILSVRC2012_devkit_t12/data/" in said
