"""CIFAR-10, CIFAR-100 and CIFAR-10.1 for ordinary classification: small copies of their public layouts, and CIFAR-100
itself.
"""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layouts import Malicious, table, tarred, write, zipped
from PIL import Image

from fewshot_cli.data.datasets import cifar as cifar_plain

EACH = {"cifar100": {"train": 3, "test": 2}, "cifar10": {"train": 5, "test": 2}}
CLASSES = {"cifar100": cifar_plain.CIFAR100_CLASSES, "cifar10": cifar_plain.CIFAR10_CLASSES}


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """The files as a zip, tar or compressed tar."""
    path.write_bytes(zipped(files) if path.suffix == ".zip" else tarred(files, "w:gz" if path.suffix == ".gz" else "w"))
    return path


def contents(store, split: str) -> dict[str, list[bytes]]:
    """class → its images' bytes, in the store's order."""
    part, blob = store.index["splits"][split], (store.path / "images.bin").read_bytes()
    ends = part["offset"] + np.cumsum(part["size"])
    out: dict[str, list[bytes]] = {cls: [] for cls in part["classes"]}
    for label, end, size in zip(part["label"], ends, part["size"], strict=True):
        out[part["classes"][label]].append(blob[end - size : end])
    return out


# CIFAR-10 and CIFAR-100


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Few images of every class."""
    monkeypatch.setattr(cifar_plain.CIFAR100, "each", EACH["cifar100"])
    monkeypatch.setattr(cifar_plain.CIFAR10, "each", EACH["cifar10"])
    monkeypatch.setattr(cifar_plain.CIFAR101, "each", {"test": 2})


@pytest.fixture(scope="module")
def cifar(pixels) -> dict[str, dict[str, dict[str, list[np.ndarray]]]]:
    """dataset → part → class → images."""
    return {
        name: {
            part: {
                cls: [pixels(100_000 * p + 100 * i + k, 32, 32) for k in range(each)]
                for i, cls in enumerate(CLASSES[name])
            }
            for p, (part, each) in enumerate(EACH[name].items())
        }
        for name in EACH
    }


def batches(dataset: str, images, protocol: int = 2, **replaced: bytes) -> dict[str, bytes]:
    """The public archive's members; of CIFAR-10 each training batch has one image of every class."""

    def dump(data: object) -> bytes:
        return pickle.dumps(data, protocol).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")

    def batch(pairs: list[tuple[int, np.ndarray]]) -> bytes:
        order = np.random.default_rng(0).permutation(len(pairs))
        data = np.stack([pairs[i][1].transpose(2, 0, 1).ravel() for i in order])
        labels = b"fine_labels" if dataset == "cifar100" else b"labels"
        return dump({b"data": data, labels: [pairs[i][0] for i in order], b"filenames": [b"x.png"] * len(pairs)})

    of = {
        part: [(i, p, k) for i, cls in enumerate(classes) for k, p in enumerate(classes[cls])]
        for part, classes in images.items()
    }
    names = [cls.encode() for cls in CLASSES[dataset]]
    if dataset == "cifar100":
        files = {part: batch([(i, p) for i, p, _ in rows]) for part, rows in of.items()}
        files |= {"meta": dump({b"fine_label_names": names, b"coarse_label_names": [b"fish"]}), "file.txt~": b""}
        folder = "cifar-100-python"
    else:
        files = {f"data_batch_{n}": batch([(i, p) for i, p, k in of["train"] if k == n - 1]) for n in range(1, 6)}
        files |= {
            "test_batch": batch([(i, p) for i, p, _ in of["test"]]),
            "readme.html": b"<html>",
            "batches.meta": dump({b"label_names": names, b"num_vis": 3072}),
        }
        folder = "cifar-10-batches-py"
    return {f"{folder}/{name}": data for name, data in (files | replaced).items()}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folders(images, between: str = "") -> dict[str, bytes]:
    return {
        f"{part}/{between}{cls}/{k}.png": png(p)
        for part, classes in images.items()
        for cls, group in classes.items()
        for k, p in enumerate(reversed(group))
    }


@pytest.mark.parametrize("dataset", EACH)
def test_cifar_is_the_same_from_every_source_with_the_same_classes_in_both_splits(prepare, tmp_path, cifar, dataset):
    files = batches(dataset, cifar[dataset])
    unpacked = write(tmp_path / "unpacked", files)
    sources = [
        packed(tmp_path / "python.tar.gz", files),
        packed(tmp_path / "newer.zip", batches(dataset, cifar[dataset], 5)),
        unpacked,
        unpacked / next(iter(files)).split("/")[0],
        write(tmp_path / "folders", folders(cifar[dataset])),
        packed(tmp_path / "deeper.tar", folders(cifar[dataset], "superclass/")),
    ]
    stores = [prepare(dataset, source) for source in sources]
    assert len({store.index["sha256"] for store in stores}) == 1
    assert table(stores[0]) == {part: dict.fromkeys(CLASSES[dataset], each) for part, each in EACH[dataset].items()}
    assert [s["classes"] for s in stores[0].index["splits"].values()] == [list(CLASSES[dataset])] * 2
    for part in EACH[dataset]:
        for cls, stored in contents(stores[0], part).items():
            assert sorted(stored) == sorted(p.tobytes() for p in cifar[dataset][part][cls])


@pytest.mark.parametrize("dataset", EACH)
def test_validation_images_come_out_of_train_by_a_fixed_rule(prepare, fsl, tmp_path, cifar, dataset):
    source = packed(tmp_path / "python.tar", batches(dataset, cifar[dataset]))
    none, one, two = (prepare(dataset, source, validation=n) for n in (0, 1, 2))
    again = prepare(dataset, write(tmp_path / "folders", folders(cifar[dataset])), validation=2)
    assert again.index["sha256"] == two.index["sha256"]
    assert list(none.index["splits"]) == ["train", "test"]
    for store, held in ((one, 1), (two, 2)):
        assert [set(c.values()) for c in table(store).values()] == [{EACH[dataset]["train"] - held}, {held}, {2}]
        assert {tuple(s["classes"]) for s in store.index["splits"].values()} == {CLASSES[dataset]}
        assert store.index["splits"]["test"]["sha256"] == none.index["splits"]["test"]["sha256"]
        assert store.index["report"]["complete_public_data"] is None
    for cls, whole in contents(none, "train").items():
        assert contents(two, "val")[cls] + contents(two, "train")[cls] == whole
        assert contents(one, "val")[cls] == contents(two, "val")[cls][:1]
    bound = {"cifar100": 500, "cifar10": 5000}[dataset]
    code, _, err = fsl("prepare", dataset, "--from", source, "--set", f"validation={bound}")
    assert code == 2 and "validation" in err and str(bound) in err


@pytest.mark.parametrize(
    ("dataset", "member"),
    [
        ("cifar100", "meta"),
        ("cifar100", "test"),
        ("cifar10", "batches.meta"),
        ("cifar10", "data_batch_3"),
        ("cifar10", "test_batch"),
    ],
)
def test_a_malicious_pickle_is_refused_and_not_run(refused, tmp_path, cifar, dataset, member):
    evil = pickle.dumps(Malicious(tmp_path / "ran"), protocol=2)
    said = refused(dataset, packed(tmp_path / "x.tar", batches(dataset, cifar[dataset], **{member: evil})))
    assert f"/{member}: is not a plain data pickle" in said and "wants to run" in said
    assert not (tmp_path / "ran").exists()


GOOD = np.zeros((1, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (b"", "Ran out of input"),
        (b"no pickle", "plain data pickle"),
        (pickle.dumps([]), "TypeError"),
        (pickle.dumps({b"data": GOOD}), "labels"),
        (pickle.dumps({b"data": 3, b"labels": []}), "its images are int64"),
        (pickle.dumps({b"data": GOOD, b"labels": [0, 1]}), r"its labels are [2] for 1 images"),
        (pickle.dumps({b"data": GOOD, b"labels": [10]}), "not numbers from 0 to 9"),
        (pickle.dumps({b"data": GOOD, b"labels": [-1]}), "not numbers from 0 to 9"),
        (pickle.dumps({b"data": GOOD, b"labels": [0.5]}), "not numbers from 0 to 9"),
        (pickle.dumps({b"data": GOOD, b"labels": [10**30]}), "not numbers from 0 to 9"),
        (pickle.dumps({b"data": GOOD.astype(float), b"labels": [0]}), "its images are float64 [1, 3072]"),
        (pickle.dumps({b"data": GOOD[:, :9], b"labels": [0]}), "its images are uint8 [1, 9]"),
        (pickle.dumps({b"data": GOOD, b"labels": [0]}), "has 4 train images of class automobile"),
    ],
)
def test_damaged_batches_are_named(refused, tmp_path, cifar, batch, why):
    said = refused("cifar10", packed(tmp_path / "x.tar", batches("cifar10", cifar["cifar10"], data_batch_2=batch)))
    assert why in said and ("data_batch_2: is not" in said or "get a whole copy" in said)


@pytest.mark.parametrize("dataset", EACH)
def test_cifar_that_is_not_whole_is_refused(refused, tmp_path, cifar, encoded, dataset):
    files, title = batches(dataset, cifar[dataset]), {"cifar100": "CIFAR-100", "cifar10": "CIFAR-10"}[dataset]
    gone = {"cifar100": "train", "cifar10": "data_batch_3"}[dataset]
    some = {name: data for name, data in files.items() if not name.endswith("/" + gone)}
    said = refused(dataset, packed(tmp_path / "a.tar", some))
    assert f"lacks {gone} beside it, which belongs to the python version of {title}" in said
    said = refused(dataset, write(tmp_path / "b", files | {f"copy/{n.split('/')[1]}": d for n, d in files.items()}))
    assert "twice" in said and "give --from one of the folders" in said
    loose = folders(cifar[dataset])
    cls = CLASSES[dataset][4]
    del loose[f"test/{cls}/1.png"]
    assert f"has 1 test images of class {cls}, {title} has 2" in refused(dataset, write(tmp_path / "c", loose))
    other = folders(cifar[dataset]) | {"train/unicorn/0.png": encoded(1)}
    assert f"unicorn is none of {title}'s" in refused(dataset, write(tmp_path / "d", other))
    large = folders(cifar[dataset]) | {f"train/{cls}/0.png": encoded(1, 32, 33)}
    assert f"train/{cls}/0.png: is not 32×32" in refused(dataset, write(tmp_path / "e", large))
    broken = folders(cifar[dataset]) | {f"train/{cls}/0.png": b"\x89PNG no"}
    assert f"train/{cls}/0.png: does not decode" in refused(dataset, write(tmp_path / "f", broken))
    assert f"holds neither the python version of {title}" in refused(dataset, write(tmp_path / "g", {"a.txt": b""}))
    named = {
        "cifar100": {"meta": {b"fine_label_names": [b"cat"] * 100}},
        "cifar10": {"batches.meta": {b"label_names": [b"cat"]}},
    }
    named = batches(dataset, cifar[dataset], **{n: pickle.dumps(d) for n, d in named[dataset].items()})
    assert f"its classes are not the {len(CLASSES[dataset])} of {title}" in refused(
        dataset, write(tmp_path / "i", named)
    )
    cut = packed(tmp_path / "h.tar.gz", files)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    assert "truncated or damaged" in refused(dataset, cut)


# CIFAR-10.1


def npy(array: np.ndarray, save=np.save) -> bytes:
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


DATA, LABELS = "cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy"


@pytest.fixture(scope="module")
def newer(pixels) -> dict[str, bytes]:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.int32), 2))
    return {DATA: npy(np.stack([pixels(i, 32, 32) for i in range(20)])), LABELS: npy(labels)}


def test_newer_cifar_has_a_test_split_by_cifar_10s_classes(prepare, tmp_path, newer):
    folder = write(tmp_path / "x", newer | {"cifar10.1_v4_data.npy": b"not to be read"})
    archive = packed(tmp_path / "y.tar.gz", {f"CIFAR-10.1/datasets/{n}": d for n, d in newer.items()})
    stores = [
        prepare("cifar10_1", folder),
        prepare("cifar10_1", archive),
        prepare("cifar10_1", folder / DATA),
        prepare("cifar10_1", folder / DATA, folder / LABELS),
    ]
    assert len({store.index["sha256"] for store in stores}) == 1
    assert table(stores[0]) == {"test": dict.fromkeys(CLASSES["cifar10"], 2)}
    assert list(table(stores[0])["test"]) == list(CLASSES["cifar10"])
    data, labels = (np.load(io.BytesIO(newer[name])) for name in (DATA, LABELS))
    for label, stored in enumerate(contents(stores[0], "test").values()):
        assert sorted(stored) == sorted(p.tobytes() for p in data[labels == label])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({DATA: npy(np.zeros((20, 3072), np.uint8))}, "its images are uint8 [20, 3072], not uint8 [N,32,32,3]"),
        ({DATA: npy(np.zeros((20, 32, 32, 3)))}, "its images are float64 [20, 32, 32, 3]"),
        ({DATA: npy(np.zeros((20, 32, 32, 3), np.uint8))[:-9]}, f"{DATA}: is not a whole .npy file"),
        ({DATA: b""}, f"{DATA}: is not a whole .npy file"),
        ({DATA: b"no array"}, f"{DATA}: is not a whole .npy file"),
        ({DATA: npy(np.zeros(3), np.savez)}, "is an archive of arrays, not one array"),
        ({LABELS: npy(np.zeros(19, np.int32))}, f"{LABELS}: its labels are [19] for 20 images"),
        ({LABELS: npy(np.full(20, 10))}, "its labels are not numbers from 0 to 9"),
        ({LABELS: npy(np.full(20, -1))}, "its labels are not numbers from 0 to 9"),
        ({LABELS: npy(np.zeros(20))}, "its labels are not numbers from 0 to 9"),
        ({LABELS: npy(np.zeros(20, np.uint8))}, "has 20 test images of class airplane, CIFAR-10.1 v6 has 2"),
    ],
)
def test_damaged_arrays_are_named(refused, tmp_path, newer, wrong, sentence):
    assert sentence in refused("cifar10_1", write(tmp_path / "x", newer | wrong))
    assert sentence in refused("cifar10_1", packed(tmp_path / "x.zip", newer | wrong))


def test_arrays_of_objects_are_not_unpickled_and_missing_ones_are_named(refused, tmp_path, newer):
    evil = npy(np.array([Malicious(tmp_path / "ran")], dtype=object))
    for name in (DATA, LABELS):
        said = refused("cifar10_1", write(tmp_path / name[:-4], newer | {name: evil}))
        assert f"{name}: is not a whole .npy file" in said and not (tmp_path / "ran").exists()
        alone = write(tmp_path / f"without_{name[:-4]}", {n: d for n, d in newer.items() if n != name})
        assert f"lacks {name}; --from takes a folder or archive" in refused("cifar10_1", alone)


def test_the_whole_of_cifar_100(shared, prepare, tmp_path, monkeypatch):
    monkeypatch.undo()  # the public numbers of images
    path = tmp_path / "cifar-100-python.tar.gz"
    subprocess.run(
        [sys.executable, shared / "cifar100" / "expand.py", "archive", path], check=True, capture_output=True
    )
    store = prepare("cifar100", path)
    assert table(store) == {
        part: dict.fromkeys(CLASSES["cifar100"], each) for part, each in (("train", 500), ("test", 100))
    }
    assert [r["images"] for r in store.index["report"]["splits"].values()] == [50_000, 10_000]
    assert store.index["report"]["complete_public_data"] is True
    held = prepare("cifar100", path, validation=50)
    assert [r["images"] for r in held.index["report"]["splits"].values()] == [45_000, 5_000, 10_000]
    images, sizes = held.split("val").decode(32)
    assert images.float().std() > 50 and set(sizes.flatten().tolist()) == {32}
