"""miniImageNet and tieredImageNet from small copies of every public layout, and what must not pass for one."""

import hashlib
import io
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from layouts import Malicious, saved, table, tarred, write, zipped

from fewshot_cli.data.datasets import mini_imagenet, tiered_imagenet
from fewshot_cli.data.format import SPLITS
from fewshot_cli.data.layouts import class_split

MINI, TIERED = class_split("mini_imagenet"), class_split("tiered_imagenet")
NUMBERS = (5, 12, 100, 1000)  # ImageNet's, of which as text 100 and 1000 come before 12, and 5 last
LISTED = (2, 3)
OF_MINI = {wnid: split for split, classes in MINI.items() for wnid in classes}


def class_tars(files: dict[str, bytes]) -> dict[str, bytes]:
    """`<wnid>/<image>` files as one tar a class, images at its top."""
    groups: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        wnid, _, image = name.partition("/")
        groups.setdefault(wnid, {})[image] = data
    return {f"{wnid}.tar": tarred(members) for wnid, members in groups.items()}


def the_sources_are_one(prepare, dataset: str, sources: list[Path]):
    stores = [prepare(dataset, source) for source in sources]
    assert len({store.index["sha256"] for store in stores}) == 1
    return stores[0]


# The lists


def csv_text(classes: dict[str, list[int]]) -> str:
    rows = [f"{wnid}{k:08d}.jpg,{wnid}\n" for wnid, numbers in classes.items() for k in numbers]
    return "filename,label\n" + "".join(rows)


def test_the_lists_are_those_of_ravi_and_larochelle_to_the_byte():
    digests = {s: hashlib.sha256(csv_text(c).encode()).hexdigest() for s, c in mini_imagenet.file_lists().items()}
    assert digests == {
        "train": "498519cd8e49ce97ed26a4a3638966698ae41ab35e9c68538319fc9b46ba7d2f",
        "val": "5658a59921ca027ee76af92949869c5d6f41d77592ff3b18db325a9d10c893b9",
        "test": "2b7cfa78342995761a572a8158e539bc4e0a80f9bbd7d00c1e17a460fbbb93fa",
    }


def test_the_lists_are_the_public_files(shared):
    folder = shared.parent / "reference" / "splits" / "miniimagenet_images"
    if not folder.is_dir():
        pytest.skip("no file lists beside this checkout")
    for split, classes in mini_imagenet.file_lists().items():
        assert (folder / f"{split}.csv").read_text("utf-8").splitlines() == csv_text(classes).splitlines()


def test_tiered_has_the_published_numbers_of_classes_once_each():
    assert {split: len(classes) for split, classes in TIERED.items()} == {"train": 351, "val": 97, "test": 160}
    assert len({wnid for classes in TIERED.values() for wnid in classes}) == 608
    assert sum(tiered_imagenet.PUBLISHED.values()) == 779_165


# miniImageNet


@pytest.fixture
def two_a_class(monkeypatch):
    """Short lists: images 2 and 3 of every class."""
    monkeypatch.setattr(
        mini_imagenet, "file_lists", lambda: {s: {c: list(LISTED) for c in cs} for s, cs in MINI.items()}
    )


@pytest.fixture(scope="module")
def imagenet(encoded) -> dict[str, bytes]:
    """miniImageNet's classes under ImageNet's names, four images each."""
    return {
        f"{wnid}/{wnid}_{n}.JPEG": encoded(10 * i + k, form="JPEG")
        for i, wnid in enumerate(OF_MINI)
        for k, n in enumerate(NUMBERS)
    }


@pytest.fixture(scope="module")
def listed(imagenet) -> dict[str, bytes]:
    """The listed images under the lists' names."""
    return {f"{wnid}{k:08d}.jpg": imagenet[f"{wnid}/{wnid}_{NUMBERS[k - 1]}.JPEG"] for wnid in OF_MINI for k in LISTED}


def below(listed: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{OF_MINI[name[:9]]}/{name[:9]}/{name}": data for name, data in listed.items()}


@pytest.mark.usefixtures("two_a_class")
def test_every_layout_of_mini_images_gives_the_same_store(prepare, tmp_path, imagenet, listed, encoded):
    validation = {
        f"val/{wnid}/ILSVRC2012_val_{i:08d}.JPEG": encoded(9000, form="JPEG") for i, wnid in enumerate(OF_MINI)
    }
    both_halves = {f"train/{name}": data for name, data in imagenet.items()} | validation | {"LICENSE.txt": b"x"}
    cs = {f"split/{split}.csv": b"filename,label\n" for split in SPLITS}
    sources = [
        write(tmp_path / "classes", imagenet),
        write(tmp_path / "both", both_halves),
        write(tmp_path / "flat", {n.partition("/")[2]: d for n, d in imagenet.items()}),
        write(tmp_path / "tars", class_tars(imagenet)),
        saved(tmp_path / "classes.tar", tarred({f"ILSVRC/train/{n}": d for n, d in imagenet.items()})),
        saved(tmp_path / "classes.zip", zipped(imagenet)),
        saved(tmp_path / "ILSVRC2012_img_train.tar", tarred(class_tars(imagenet))),
        saved(tmp_path / "download" / "ILSVRC2012_img_train.tar", tarred(class_tars(imagenet))).parent,
        write(tmp_path / "deepemd", {f"miniimagenet/images/{n}": d for n, d in listed.items()} | cs),
        saved(tmp_path / "images.tar", tarred({f"images/{n}": d for n, d in listed.items()})),
        write(tmp_path / "in_classes", {f"{n[:9]}/{n}": d for n, d in listed.items()}),
        saved(tmp_path / "in_splits.zip", zipped(below(listed))),
    ]
    store = the_sources_are_one(prepare, "mini_imagenet", sources)
    assert {split: list(classes) for split, classes in table(store).items()} == {s: list(c) for s, c in MINI.items()}
    assert {n for classes in table(store).values() for n in classes.values()} == {2}


@pytest.mark.usefixtures("two_a_class")
def test_a_listed_number_counts_the_images_by_the_number_in_imagenets_names(prepare, tmp_path, imagenet):
    store = prepare("mini_imagenet", write(tmp_path / "x", imagenet))
    names = [name for part in store.index["splits"].values() for name in part["name"]]
    assert names == [f"{wnid}/{wnid}_{n}.JPEG" for wnid in OF_MINI for n in (12, 100)]


def test_the_warning_about_copies_is_on_stderr_and_only_for_copies(fsl, tmp_path, two_a_class, listed, encoded):
    source = write(tmp_path / "small", listed)
    code, out, err = fsl("prepare", "mini_imagenet", "--from", source, "--format", "json")
    assert code == 0 and json.loads(out)["splits"]["val"]["classes"] == 16
    assert "warning: no image is larger than 8 px" in err and "original size" in err
    for side, warned in ((84, True), (85, False)):
        (source / next(iter(listed))).write_bytes(encoded(1, 8, side, "JPEG"))
        code, out, err = fsl("prepare", "mini_imagenet", "--from", source, "--force")
        assert code == 0 and ("warning:" in err) == warned and "warning:" not in out


def test_without_a_source_the_sentence_says_what_to_get(fsl):
    for dataset in ("mini_imagenet", "tiered_imagenet"):
        code, _, err = fsl("prepare", dataset)
        assert code == 3 and "ImageNet's training images" in err and f"fsl show dataset {dataset}" in err
        code, out, _ = fsl("show", "dataset", dataset)
        assert code == 0 and "ILSVRC2012_img_train.tar" in out


@pytest.mark.usefixtures("two_a_class")
def test_mini_without_some_classes_or_any_is_refused(refused, tmp_path, imagenet, listed):
    gone = ("n01532829", "n02110063")
    some = {n: d for n, d in imagenet.items() if not n.startswith(gone)}
    for source in (
        write(tmp_path / "a", some),
        saved(tmp_path / "b.tar", tarred(class_tars(some))),
        write(tmp_path / "c", {n: d for n, d in listed.items() if not n.startswith(gone)}),
    ):
        assert "lacks 2 of miniImageNet's 100 classes (n01532829, n02110063)" in refused("mini_imagenet", source)
    said = refused("mini_imagenet", write(tmp_path / "d", {"cats/1.jpg": listed["n0153282900000002.jpg"]}))
    assert "holds no image of miniImageNet's 100 classes; --from takes ImageNet's training images" in said
    assert "does not exist" in refused("mini_imagenet", tmp_path / "nowhere")


@pytest.mark.usefixtures("two_a_class")
def test_mini_without_some_listed_images_is_refused(refused, tmp_path, listed):
    gone = ("n0153282900000003", "n0211006300000002", "n0211006300000003")
    kept = {n: d for n, d in listed.items() if not n.startswith(gone)}
    said = refused("mini_imagenet", write(tmp_path / "x", kept | {"n0211006300000099.jpg": b"unlisted"}))
    assert "lacks 3 of the 200 listed images (first n0153282900000003.jpg)" in said


@pytest.mark.usefixtures("two_a_class")
def test_a_class_with_too_few_of_imagenets_images_is_refused(refused, tmp_path, imagenet):
    few = {n: d for n, d in imagenet.items() if not n.startswith("n01930112") or n.endswith(("_5.JPEG", "_100.JPEG"))}
    few |= {"n01930112/other.jpg": few["n01930112/n01930112_5.JPEG"]}
    sentence = "class n01930112 has 2 images named like n01930112_5.JPEG, but the lists go up to number 3"
    assert sentence in refused("mini_imagenet", write(tmp_path / "a", few))
    outer = saved(tmp_path / "b.tar", tarred(class_tars(few)))
    said = refused("mini_imagenet", outer)
    assert sentence in said and said.startswith(f"{outer}/n01930112.tar: ")
    renamed = write(tmp_path / "c", {n.replace("/n", "/x"): d for n, d in imagenet.items()})
    assert "class n01532829 has 0 images named like" in refused("mini_imagenet", renamed)


@pytest.mark.usefixtures("two_a_class")
def test_the_same_image_in_two_folders_is_refused(refused, tmp_path, imagenet, listed):
    twice = {f"{folder}/{n}": d for folder in ("images", "images_84") for n, d in listed.items()}
    assert "twice (images/n01" in refused("mini_imagenet", write(tmp_path / "a", twice))
    twice = {f"{folder}/{n}": d for folder in ("full", "small") for n, d in imagenet.items()}
    assert "has an image of class n01532829 twice" in refused("mini_imagenet", write(tmp_path / "b", twice))


@pytest.mark.usefixtures("two_a_class")
def test_damaged_class_tars_and_images_are_named(refused, tmp_path, imagenet):
    tars = class_tars(imagenet)
    tars["n01532829.tar"] = tars["n01532829.tar"][:2000]
    outer = saved(tmp_path / "outer.tar", tarred(tars))
    assert refused("mini_imagenet", outer).startswith(f"{outer}/n01532829.tar: is truncated or damaged")
    assert "n01532829.tar: is truncated" in refused("mini_imagenet", write(tmp_path / "tars", tars))
    broken = imagenet | {"n01532829/n01532829_100.JPEG": b"\xff\xd8\xff no image"}
    assert "n01532829_100.JPEG: does not decode" in refused("mini_imagenet", write(tmp_path / "x", broken))


# miniImageNet's pickles


@pytest.fixture(scope="module")
def mini_pixels(pixels) -> dict[str, np.ndarray]:
    """Two images per class, by class."""
    return {wnid: np.stack([pixels(10 * i + k, 84, 84) for k in range(2)]) for i, wnid in enumerate(OF_MINI)}


def shuffled_classes(split: str) -> list[str]:
    return sorted(MINI[split], key=lambda c: c[::-1])


def caches(mini_pixels, keys=str, protocol: int = 2, **replaced: object) -> dict[str, bytes]:
    """Ren et al.'s three files, their classes in another order than the published one."""
    files = {}
    for split in SPLITS:
        classes = shuffled_classes(split)
        data = {
            "image_data": np.concatenate([mini_pixels[c] for c in classes]),
            "class_dict": {keys(c): [2 * i, 2 * i + 1] for i, c in enumerate(classes)},
        }
        data |= replaced if split == "val" else {}
        files[f"mini-imagenet-cache-{split}.pkl"] = pickle.dumps({keys(k): v for k, v in data.items()}, protocol)
    return files


def categories(mini_pixels, keys=str, named: bool = True, **replaced: object) -> dict[str, bytes]:
    """MetaOptNet's three files, and one for other images of the training classes."""
    files, first = {"miniImageNet_category_split_train_phase_val.pickle": b"not to be read"}, 0
    for split, phase in (("train", "train_phase_train"), ("val", "val"), ("test", "test")):
        classes = shuffled_classes(split)
        data = {
            "data": np.concatenate([np.stack([mini_pixels[c][k] for c in classes]) for k in range(2)]),
            "labels": [first + i for _ in range(2) for i in range(len(classes))],
        }
        if named:
            data |= {"catname2label": {keys(c): first + i for i, c in enumerate(classes)}}
        data |= replaced if split == "val" else {}
        first += len(classes)
        files[f"miniImageNet_category_split_{phase}.pickle"] = pickle.dumps({keys(k): v for k, v in data.items()}, 2)
    return files


@pytest.mark.usefixtures("two_a_class")
def test_every_kind_of_mini_pickles_gives_the_same_store(prepare, tmp_path, mini_pixels, capsys):
    sources = [
        write(tmp_path / "python3", caches(mini_pixels, protocol=5)),
        write(tmp_path / "python2", caches(mini_pixels, str.encode)),
        saved(tmp_path / "caches.tar", tarred({f"mini/{n}": d for n, d in caches(mini_pixels).items()})),
        write(tmp_path / "metaopt3", categories(mini_pixels)),
        write(tmp_path / "metaopt2" / "miniImageNet", categories(mini_pixels, str.encode)).parent,
    ]
    store = the_sources_are_one(prepare, "mini_imagenet", sources)
    assert capsys.readouterr().err.count("warning: no image is larger than 84 px") == len(sources)
    assert table(store) == {split: {wnid: 2 for wnid in classes} for split, classes in MINI.items()}
    val = store.split("val")
    images, _ = val.decode(84)
    for cls, members in zip(val.classes, val.members(), strict=True):
        assert np.array_equal(images[members].permute(0, 2, 3, 1).numpy(), mini_pixels[cls])


@pytest.mark.usefixtures("two_a_class")
def test_metaoptnets_pickles_without_names_number_their_classes(prepare, tmp_path, mini_pixels):
    store = prepare("mini_imagenet", write(tmp_path / "x", categories(mini_pixels, named=False)))
    assert list(table(store)["val"]) == [f"val_{i:02d}" for i in range(64, 80)]
    images, _ = store.split("test").decode(84)
    assert np.array_equal(images[:2].permute(0, 2, 3, 1).numpy(), mini_pixels[shuffled_classes("test")[0]])


@pytest.mark.usefixtures("two_a_class")
@pytest.mark.parametrize(
    ("kind", "wrong", "sentence"),
    [
        (caches, {"class_dict": {"n01532829": [0, 1]}}, "its 1 classes are not the 16 of the published val split"),
        (caches, {"class_dict": {c: [0] for c in MINI["val"]}}, "class_dict does not fit its images"),
        (caches, {"class_dict": {c: [i - 1, 16 + i] for i, c in enumerate(MINI["val"])}}, "does not fit its images"),
        (caches, {"class_dict": {c: [i, 17 + i] for i, c in enumerate(MINI["val"])}}, "does not fit its images"),
        (
            caches,
            {"class_dict": {c: [i, 16 + i] for i, c in enumerate([*MINI["test"]][:16])}},
            "its 16 classes are not",
        ),
        (caches, {"class_dict": {c: [i] for i, c in enumerate(MINI["val"])}}, "has 1 images, not 2"),
        (caches, {"class_dict": 3}, "is not one of miniImageNet's pickles"),
        (caches, {"image_data": np.zeros((32, 84, 84, 3))}, r"images are float64 \[32, 84, 84, 3\], not uint8"),
        (caches, {"image_data": np.zeros((32, 21168), np.uint8)}, r"images are uint8 \[32, 21168\]"),
        (caches, {"image_data": np.zeros((32, 84, 3), np.uint8)}, r"images are uint8 \[32, 84, 3\]"),
        (categories, {"labels": [64]}, "it has 1 labels for 32 images"),
        (categories, {"labels": list(range(32))}, "its 32 classes are not the 16 of the published val split"),
        (categories, {"labels": None}, "is not one of miniImageNet's pickles"),
    ],
)
def test_mini_pickles_that_are_not_the_published_ones_are_refused(
    refused, tmp_path, mini_pixels, kind, wrong, sentence
):
    said = refused("mini_imagenet", write(tmp_path / "x", kind(mini_pixels, **wrong)))
    assert re.search(sentence, said) and "val.p" in said, said


@pytest.mark.usefixtures("two_a_class")
def test_mini_pickles_swapped_absent_truncated_or_hostile_are_refused(refused, tmp_path, mini_pixels):
    files = caches(mini_pixels)
    train, val, test = (f"mini-imagenet-cache-{split}.pkl" for split in SPLITS)
    swapped = write(tmp_path / "swapped", files | {val: files[test], test: files[val]})
    assert f"{val}: its 20 classes are not the 16 of the published val split" in refused("mini_imagenet", swapped)
    absent = write(tmp_path / "absent", {train: files[train]})
    assert f"lacks {val}" in refused("mini_imagenet", absent)
    short = write(tmp_path / "short", files | {test: files[test][:5000]})
    assert f"{test}: is not a plain data pickle" in refused("mini_imagenet", short)
    evil = files | {train: pickle.dumps({"image_data": Malicious(tmp_path / "ran")}, 2)}
    for source in (write(tmp_path / "evil", evil), saved(tmp_path / "evil.tar", tarred(evil))):
        assert "wants to run" in refused("mini_imagenet", source)
    assert not (tmp_path / "ran").exists()


# tieredImageNet


@pytest.fixture(scope="module")
def tiered(encoded) -> dict[str, bytes]:
    """One image of each class, two of the first, under ImageNet's names."""
    wnids = [wnid for classes in TIERED.values() for wnid in classes]
    files = {f"{wnid}/{wnid}_{7 + i}.JPEG": encoded(20_000 + i, form="JPEG") for i, wnid in enumerate(wnids)}
    return files | {f"{wnids[0]}/{wnids[0]}_1000.JPEG": encoded(19_999, form="JPEG")}


SOME = {"train": TIERED["train"][:3], "val": TIERED["val"][:2], "test": TIERED["test"][:2]}


@pytest.fixture
def seven_classes(monkeypatch):
    """A short list of classes."""
    monkeypatch.setattr(tiered_imagenet, "class_split", lambda name: SOME)


def test_every_layout_of_tiered_images_gives_the_same_store(prepare, tmp_path, tiered, capsys):
    where = {wnid: split for split, classes in TIERED.items() for wnid in classes}
    extra = {"n99999999/n99999999_18.JPEG": tiered[next(iter(tiered))]}  # no class of tiered
    first = next(iter(tiered))[:9]
    copy = {f"copies/{first}/{first}00000001.jpg": tiered[f"{first}/{first}_7.JPEG"]}  # beside the originals: not taken
    sources = [
        write(tmp_path / "classes", tiered | extra | copy),
        write(tmp_path / "tars", class_tars(tiered | extra)),
        saved(tmp_path / "ILSVRC2012_img_train.tar", tarred(class_tars(tiered))),
        saved(tmp_path / "deepemd.tar", tarred({f"tiered/{where[n[:9]]}/{n}": d for n, d in tiered.items()})),
    ]
    store = the_sources_are_one(prepare, "tiered_imagenet", sources)
    err = capsys.readouterr().err
    assert "warning: train has 352 images, the published tieredImageNet 448,695" in err
    assert "warning: no image is larger than 8 px" in err
    assert {split: list(classes) for split, classes in table(store).items()} == TIERED
    renamed = write(
        tmp_path / "renamed", {n.replace("/n", "/x"): d for n, d in tiered.items()}
    )  # their order is the names'
    assert table(prepare("tiered_imagenet", renamed)) == table(store)
    assert [name.rpartition("_")[2] for name in store.index["splits"]["train"]["name"][:3]] == [
        "7.JPEG",
        "1000.JPEG",
        "8.JPEG",
    ]


def test_tiered_split_folders_of_other_class_names_are_taken_as_they_are(
    prepare, refused, tmp_path, seven_classes, encoded
):
    names = {"train": ["cat", "ant", "bee"], "val": ["dog", "cow"], "test": ["fox", "elk"]}
    files = {
        f"x/{s}/{c}/{k}.png": encoded(len(s) * 100 + 10 * i + k)
        for s, cs in names.items()
        for i, c in enumerate(cs)
        for k in range(2)
    }
    store = prepare("tiered_imagenet", write(tmp_path / "x", files | {"x/more/gnu/0.png": encoded(1)}))
    assert [(s, list(c)) for s, c in table(store).items()] == [(s, sorted(c)) for s, c in names.items()]
    shutil.rmtree(tmp_path / "x" / "x" / "val" / "dog")
    assert "holds no image of tieredImageNet's 7 classes" in refused("tiered_imagenet", tmp_path / "x")


def test_tiered_without_some_classes_images_or_anything_is_refused(refused, tmp_path, seven_classes, encoded):
    wnids = [wnid for classes in SOME.values() for wnid in classes]
    some = {f"{wnid}/{wnid}_1.JPEG": encoded(1, form="JPEG") for wnid in wnids[1:]}
    assert f"lacks 1 of tieredImageNet's 7 classes ({wnids[0]})" in refused(
        "tiered_imagenet", write(tmp_path / "a", some)
    )
    tars = class_tars(some | {f"{wnids[0]}/readme.txt": b"x"})
    assert f"holds no images of class {wnids[0]}" in refused("tiered_imagenet", write(tmp_path / "b", tars))
    validation = {f"{wnid}/ILSVRC2012_val_{i:08d}.JPEG": encoded(i, form="JPEG") for i, wnid in enumerate(wnids)}
    for files in ({"x": b""}, validation):
        source = write(tmp_path / f"c{len(files)}", files)
        assert "holds no image of tieredImageNet's 7 classes" in refused("tiered_imagenet", source)


# tieredImageNet's packed copies

TITLES = {"train": ["crane", "jay", "kite"], "val": ["drum", "gong"], "test": ["crane", "boat"]}


def packed(pixels, encoded, form: str, keys=str, **replaced: bytes) -> dict[str, bytes]:
    """Ren et al.'s files: images of a class are not side by side, pixels are BGR, PNG files RGB."""
    files = {}
    for number, split in enumerate(SPLITS):
        labels = [label for _ in range(2) for label in range(len(TITLES[split]))]
        seeds = [100 * number + k for k in range(len(labels))]
        if form == "npz":
            file = io.BytesIO()
            np.savez(file, images=np.stack([pixels(seed, 84, 84)[..., ::-1] for seed in seeds]))
            files[f"{split}_images.npz"] = file.getvalue()
        else:
            pngs = [np.frombuffer(encoded(seed, 84, 84), np.uint8) for seed in seeds]
            files[f"{split}_images_png.pkl"] = pickle.dumps([p[:, None] if k % 2 else p for k, p in enumerate(pngs)], 2)
        names = {
            "label_specific": np.array(labels, np.int32),
            "label_general": np.zeros(len(labels), np.int32),
            "label_specific_str": [keys(t) for t in TITLES[split]],
            "label_general_str": [keys("x")],
        }
        files[f"{split}_labels.pkl"] = pickle.dumps({keys(k): v for k, v in names.items()}, 2)
    return files | replaced


@pytest.mark.usefixtures("seven_classes")
def test_packed_tiered_copies_give_the_same_images_in_the_labels_order(prepare, tmp_path, pixels, encoded, capsys):
    for form, keys in (("npz", str), ("png", str), ("png", str.encode)):
        files = packed(pixels, encoded, form, keys)
        store = prepare("tiered_imagenet", write(tmp_path / f"{form}{keys.__name__}" / "tiered", files).parent)
        assert table(store) == {
            "train": {"crane (train 0)": 2, "jay": 2, "kite": 2},
            "val": {"drum": 2, "gong": 2},
            "test": {"crane (test 0)": 2, "boat": 2},
        }
        images, _ = store.split("train").decode(84)
        want = np.stack([pixels(seed, 84, 84) for seed in (0, 3, 1, 4, 2, 5)])
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), want)
        assert "warning: no image is larger than 84 px" in capsys.readouterr().err


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def label_file(**fields: object) -> bytes:
    return pickle.dumps({"label_specific": np.array([0, 1, 0, 1]), "label_specific_str": ["drum", "gong"]} | fields)


@pytest.mark.usefixtures("seven_classes")
@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("val_images.npz", b"", "is not a whole npz of images"),
        ("val_images.npz", npz(images=np.ones((4, 84, 84, 3), np.uint8))[:50_000], "is not a whole npz of images"),
        ("val_images.npz", npz(photos=np.ones(3)), "is not a whole npz of images"),
        ("val_images.npz", npz(images=np.array([{}, {}])), "is not a whole npz of images"),
        ("val_images.npz", npz(images=np.ones((4, 84, 84, 3))), "does not hold the 4 images of its labels"),
        ("val_images.npz", npz(images=np.ones((3, 84, 84, 3), np.uint8)), "does not hold the 4 images of its labels"),
        ("val_labels.pkl", b"\x80", "is not a plain data pickle"),
        ("val_labels.pkl", pickle.dumps([1]), "is not one of tieredImageNet's label files"),
        ("val_labels.pkl", pickle.dumps({}), "is not one of tieredImageNet's label files"),
        ("val_labels.pkl", label_file(label_specific_str=["drum"]), "it has 1 classes, not 2"),
        ("val_labels.pkl", label_file(label_specific=np.array([0, 1, 2, 0])), "are not numbers of its classes"),
        ("val_labels.pkl", label_file(label_specific=np.zeros(4, int)), "has no image of class gong"),
    ],
)
def test_damaged_packed_tiered_copies_are_refused(refused, tmp_path, pixels, encoded, name, data, sentence):
    said = refused("tiered_imagenet", write(tmp_path / "x", packed(pixels, encoded, "npz", **{name: data})))
    assert sentence in said and "val_" in said, said


@pytest.mark.usefixtures("seven_classes")
def test_packed_tiered_copies_incomplete_or_hostile_are_refused(refused, tmp_path, pixels, encoded):
    png, npzs = packed(pixels, encoded, "png"), packed(pixels, encoded, "npz")
    mixed = {n: d for n, d in (png | npzs).items() if n not in ("train_images.npz", "val_images_png.pkl")}
    assert "must hold train, val and test as *_images_png.pkl or all as *_images.npz" in refused(
        "tiered_imagenet", write(tmp_path / "mixed", mixed)
    )
    unlabelled = {n: d for n, d in png.items() if n != "test_labels.pkl"}
    assert "lacks test_labels.pkl; put it beside test_images_png.pkl" in refused(
        "tiered_imagenet", write(tmp_path / "unlabelled", unlabelled)
    )
    words = write(tmp_path / "words", png | {"val_images_png.pkl": pickle.dumps(["a", "b", "c", "d"])})
    assert "does not hold the 4 images" in refused("tiered_imagenet", words)
    broken = write(tmp_path / "broken", png | {"val_images_png.pkl": pickle.dumps([b"no image"] * 4)})
    assert "drum/0: does not decode as an image" in refused("tiered_imagenet", broken)
    for name in ("train_labels.pkl", "val_images_png.pkl"):
        evil = write(tmp_path / name, png | {name: pickle.dumps([Malicious(tmp_path / "ran")], 2)})
        assert f"{name}: is not a plain data pickle (it wants to run" in refused("tiered_imagenet", evil)
    assert not (tmp_path / "ran").exists()
