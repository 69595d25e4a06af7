"""Stanford Dogs, Stanford Cars and NABirds from small copies of their public layouts, and species that bird sets
share.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from layouts import saved, table, tarred, write, zipped
from scipy.io import savemat

from fewshot_cli.data.datasets import nabirds, stanford_cars, stanford_dogs
from fewshot_cli.data.datasets.nabirds import NABirds
from fewshot_cli.data.datasets.stanford_cars import NAMES, StanfordCars
from fewshot_cli.data.datasets.stanford_dogs import StanfordDogs
from fewshot_cli.data.layouts import class_split
from fewshot_cli.data.prepare import build_store
from fewshot_cli.data.species import shared
from fewshot_cli.data.store import open_store
from fewshot_cli.errors import DataError

BUILDERS = {"stanford_dogs": StanfordDogs, "stanford_cars": StanfordCars, "nabirds": NABirds}


@pytest.fixture
def prepare(tmp_path):
    """As the shared one, without the registry."""

    def run(dataset: str, *sources: Path):
        root = tmp_path / f"root{len(list(tmp_path.glob('root*')))}"
        build_store(dataset, BUILDERS[dataset](), list(sources), root)
        assert [p.name for p in root.iterdir()] == [dataset], "something else was left in the data root"
        return open_store(root, dataset)

    return run


@pytest.fixture
def refused(tmp_path, prepare):
    def run(dataset: str, *sources: Path) -> str:
        before = len(list(tmp_path.glob("root*")))
        with pytest.raises(DataError) as fault:
            prepare(dataset, *sources)
        assert list((tmp_path / f"root{before}").iterdir()) == []
        return str(fault.value)

    return run


def boxes(store) -> dict[str, list[int] | None]:
    return {
        name: box
        for part in store.index["splits"].values()
        for name, box in zip(part["name"], part["box"], strict=True)
    }


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [("stanford_dogs", (70, 20, 30)), ("stanford_cars", (130, 17, 49)), ("nabirds", (350, 66, 139))],
)
def test_the_published_splits_have_their_class_counts_and_share_no_class(dataset, counts):
    split = class_split(dataset)
    assert list(split) == ["train", "val", "test"]
    assert tuple(map(len, split.values())) == counts
    assert len({cls for classes in split.values() for cls in classes}) == sum(counts)


# Stanford Dogs

DOGS = {
    "n02085620-Chihuahua": "train",
    "n02086240-Shih-Tzu": "train",
    "n02085936-Maltese_dog": "val",
    "n02089867-Walker_hound": "test",
}
AROUND = {"7": (1, 2, 6, 7), "1007": (2, 1, 8, 5)}  # the file names' order is not the numbers'


def note(*around: tuple[int, ...], name: str = "Chihuahua") -> bytes:
    objects = "".join(
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{x}</xmin>\n\t\t\t<ymin>{y}</ymin>\n\t\t\t<xmax>{right}</xmax>\n\t\t\t<ymax>{bottom}</ymax>\n"
        "\t\t</bndbox>\n\t</object>\n"
        for x, y, right, bottom in around
    )
    return (
        "<annotation>\n\t<folder>02085620</folder>\n\t<source>\n\t\t<database>ImageNet "
        "database</database>\n\t</source>\n"
        "\t<size>\n\t\t<width>10</width>\n\t\t<height>8</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"{objects}</annotation>"
    ).encode()


@pytest.fixture(scope="module")
def dogs(encoded) -> dict[str, bytes]:
    """Members of images.tar."""
    return {
        f"Images/{cls}/{cls[:9]}_{k}.jpg": encoded(10 * i + j, 8, 10, "JPEG")
        for i, cls in enumerate(DOGS)
        for j, k in enumerate(AROUND)
    }


@pytest.fixture(scope="module")
def notes() -> dict[str, bytes]:
    """Members of annotation.tar."""
    return {f"Annotation/{cls}/{cls[:9]}_{k}": note(box) for cls in DOGS for k, box in AROUND.items()}


def test_every_layout_of_stanford_dogs_gives_the_same_store(prepare, tmp_path, dogs, notes):
    images, annotation = saved(tmp_path / "images.tar", tarred(dogs)), saved(tmp_path / "annotation.tar", tarred(notes))
    tars = write(tmp_path / "tars", {"images.tar": tarred(dogs), "annotation.tar": tarred(notes)})
    unpacked = write(tmp_path / "unpacked", dogs | notes)
    half = write(tmp_path / "half", dogs | {"annotation.tar": tarred(notes)})
    both = write(
        tmp_path / "both", below("dogs", dogs | notes) | {"images.tar": tarred(dogs), "annotation.tar": tarred(notes)}
    )
    suffixed = write(tmp_path / "suffixed", dogs | {f"{name}.xml": data for name, data in notes.items()})
    halves = {name.replace("Images", "test" if "_7.jpg" in name else "train"): data for name, data in dogs.items()}
    parted = write(tmp_path / "parted", halves | notes)
    stores = [
        prepare("stanford_dogs", *s)
        for s in ((images, annotation), (tars,), (unpacked,), (half,), (both,), (suffixed,), (parted,))
    ]
    assert len({store.index["sha256"] for store in stores}) == 1
    assert table(stores[0]) == {s: {cls: 2 for cls in DOGS if DOGS[cls] == s} for s in ("train", "val", "test")}
    part = stores[0].index["splits"]["val"]
    assert part["name"] == [f"{cls}/{cls[:9]}_{k}.jpg" for cls in DOGS if DOGS[cls] == "val" for k in ("1007", "7")]
    assert boxes(stores[0]) == {f"{cls}/{cls[:9]}_{k}.jpg": list(box) for cls in DOGS for k, box in AROUND.items()}


def test_dogs_without_annotations_have_no_boxes_and_the_same_images(prepare, tmp_path, dogs):
    plain = {name.removeprefix("Images/"): data for name, data in dogs.items()}
    sources = [
        saved(tmp_path / "images.tar", tarred(dogs)),
        write(tmp_path / "plain", plain),
        write(tmp_path / "alone", {"images.tar": tarred(dogs)}),
        saved(tmp_path / "dogs.zip", zipped(plain)),
        write(tmp_path / "packed", {"dogs.zip": zipped(plain)}),
    ]
    stores = [prepare("stanford_dogs", source) for source in sources]
    assert len({store.index["sha256"] for store in stores}) == 1
    assert set(boxes(stores[0]).values()) == {None}
    assert sum(sum(classes.values()) for classes in table(stores[0]).values()) == len(dogs)


def test_the_box_encloses_all_dogs_and_stays_within_the_image(prepare, tmp_path, dogs, notes):
    cls = "n02085620-Chihuahua"
    two = f"Annotation/{cls}/n02085620_7"
    out = f"Annotation/{cls}/n02085620_1007"
    several = notes | {two: note((3, 2, 5, 4), (1, 3, 4, 6), (2, 5, 30, 60)), out: note((10, 8, 12, 14))}
    found = boxes(prepare("stanford_dogs", write(tmp_path / "dogs", dogs | several)))
    assert found[f"{cls}/n02085620_7.jpg"] == [1, 2, 10, 8]
    assert found[f"{cls}/n02085620_1007.jpg"] is None
    beyond = notes | {two: note((-3, -2, 5, 4)), out: note((5, 5, 5, 7))}
    found = boxes(prepare("stanford_dogs", write(tmp_path / "dogs", dogs | beyond)))
    assert found[f"{cls}/n02085620_7.jpg"] == [0, 0, 5, 4]
    assert found[f"{cls}/n02085620_1007.jpg"] is None


def test_a_partial_copy_of_dogs_has_the_classes_that_are_there(prepare, tmp_path, dogs, notes):
    some = {name: data for name, data in dogs.items() if "Shih" not in name and "Walker" not in name}
    store = prepare(
        "stanford_dogs", write(tmp_path / "some", some | notes | {"Images/n09999999-cat/1.jpg": b"no image"})
    )
    assert table(store) == {"train": {"n02085620-Chihuahua": 2}, "val": {"n02085936-Maltese_dog": 2}}


def test_a_dog_without_its_annotation_or_there_twice_is_refused(refused, tmp_path, dogs, notes):
    gone = "Annotation/n02085936-Maltese_dog/n02085936_7"
    less = {name: data for name, data in notes.items() if name != gone}
    said = refused("stanford_dogs", write(tmp_path / "less", dogs | less))
    assert "none of n02085936-Maltese_dog/n02085936_7; get annotation.tar whole" in said
    twice = dogs | below("copy", dogs)
    said = refused("stanford_dogs", write(tmp_path / "twice", twice))
    assert "an image of n02085620-Chihuahua twice (Images/" in said and "copy/Images/" in said and "--from" in said


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "1">]><annotation><object><bndbox><xmin>&b;</xmin><ymin>1</ymin>'
    b"<xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"
)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no element found"),
        (note((1, 2, 3, 4))[:-20], "unclosed token"),
        (b"\xff\xd8\xff", "not well-formed"),
        (note(), "it has no bndbox"),
        (note((1, 2, 3, 4)).replace(b"<xmin>1</xmin>", b""), "could not convert"),
        (note((1, 2, 3, 4)).replace(b">1<", b">one<"), "could not convert"),
        (BOMB, "it has a document type"),
        (note((1, 2, 3, 4)).replace(b">1<", b">1e999<"), "infinity"),
        (b'<?xml version="1.0" encoding="none"?>' + note((1, 2, 3, 4)), "encoding"),
        (note((1, 2, 3, 4)) + b" " * stanford_dogs.MAX_BYTES, "it has 65,9"),
    ],
)
def test_a_damaged_annotation_is_refused_in_a_sentence(refused, tmp_path, dogs, notes, data, why):
    name = "Annotation/n02085620-Chihuahua/n02085620_7"
    said = refused("stanford_dogs", write(tmp_path / "dogs", dogs | notes | {name: data}))
    assert f"{name}: is not an annotation of Stanford Dogs" in said and why in said and said.endswith("; get it again")


def test_a_damaged_image_with_a_box_is_refused_by_its_name(refused, tmp_path, dogs, notes):
    bad = {"Images/n02085620-Chihuahua/n02085620_7.jpg": b"no image"}
    said = refused("stanford_dogs", write(tmp_path / "dogs", dogs | notes | bad))
    assert said.startswith("n02085620-Chihuahua/n02085620_7.jpg: does not decode as an image")


# Stanford Cars

CARS = {
    "1": "AM General Hummer SUV 2000",
    "103": "Ferrari 458 Italia Convertible 2012",
    "10": "Aston Martin Virage Convertible 2012",
    "174": "Ram C/V Cargo Van Minivan 2012",
}
SPLIT = {cls: split for split, classes in class_split("stanford_cars").items() for cls in classes if cls in CARS}
SIDES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def structs(fields: tuple[str, ...], rows: list[tuple]) -> np.ndarray:
    """A struct array as MATLAB keeps it: 1×N, every field a matrix or text of its own."""
    out = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for k, row in enumerate(rows):
        out[0, k] = tuple(v if isinstance(v, str) else np.array([[v]], np.uint8) for v in row)
    return out


def cells(names: list[str]) -> np.ndarray:
    out = np.empty((1, len(names)), dtype=object)
    out[0, :] = names
    return out


def mat(**variables: np.ndarray) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def cars(encoded) -> list[tuple[str, bytes, tuple[int, ...]]]:
    """Class, image and MATLAB's box of two images of each class."""
    return [
        (cls, encoded(10 * i + k, 8, 10, "JPEG"), (2 + k, 3, 6, 7 + k)) for i, cls in enumerate(CARS) for k in range(2)
    ]


def in_one(cars, **replaced: bytes) -> dict[str, bytes]:
    """car_ims and cars_annos.mat, unpacked."""
    rows = [(f"car_ims/{k:06d}.jpg", *box, int(cls), k % 2) for k, (cls, _, box) in enumerate(cars, 1)]
    files = {f"car_ims/{k:06d}.jpg": data for k, (_, data, _) in enumerate(cars, 1)}
    annos = mat(annotations=structs(("relative_im_path", *SIDES, "class", "test"), rows), class_names=cells(NAMES))
    return files | {"cars_annos.mat": annos} | replaced


def in_halves(cars, test: str = "cars_test_annos_withlabels.mat", rows: list[tuple] | None = None) -> dict[str, bytes]:
    """cars_train, cars_test, devkit and the list of labels, unpacked."""
    files = {
        "devkit/cars_meta.mat": mat(class_names=cells(NAMES)),
        "devkit/cars_test_annos.mat": mat(annotations=structs(SIDES, [])),
    }
    for half, name, first in (("cars_train", "devkit/cars_train_annos.mat", 0), ("cars_test", test, 1)):
        part = cars[first::2]
        files |= {f"{half}/{k:05d}.jpg": data for k, (_, data, _) in enumerate(part, 1)}
        fields = [(*box, int(cls), f"{k:05d}.jpg") for k, (cls, _, box) in enumerate(part, 1)]
        files[name] = mat(annotations=structs((*SIDES, "class", "fname"), rows if rows and first else fields))
    return files


def packed(files: dict[str, bytes], archives: dict[str, str]) -> dict[str, bytes]:
    """The files with some of their folders as .tgz."""
    out = {name: data for name, data in files.items() if name.split("/")[0] not in archives}
    for folder, archive in archives.items():
        inside = {name: data for name, data in files.items() if name.split("/")[0] == folder}
        out[archive] = tarred(inside, "w:gz")
    return out


def images(store) -> dict[str, dict[str, set[tuple]]]:
    """Split → class → pixels and boxes of its images."""
    out = {}
    for split, part in store.index["splits"].items():
        loaded = store.split(split)
        pixels, _ = loaded.decode(10, crop="raw")
        out[split] = {
            cls: {(pixels[i].numpy().tobytes(), str(part["box"][i])) for i in members}
            for cls, members in zip(loaded.classes, loaded.members(), strict=True)
        }
    return out


def test_every_layout_of_stanford_cars_with_lists_gives_the_same_images_and_boxes(prepare, tmp_path, cars):
    tgz = {"cars_train": "cars_train.tgz", "cars_test": "cars_test.tgz", "devkit": "car_devkit.tgz"}
    kaggle = {
        f"{name.split('/')[0]}/{name}" if "/" in name else name: data
        for name, data in in_halves(cars, "cars_test_annos_withlabels (1).mat").items()
    }
    # Kaggle's other copy has cars_annos.mat without the images that it lists
    stray = in_halves(cars, "devkit/cars_test_annos_withlabels.mat") | {
        "cars_annos.mat": in_one(cars)["cars_annos.mat"]
    }
    layouts = [
        in_one(cars),
        packed(in_one(cars), {"car_ims": "car_ims.tgz"}),
        in_halves(cars),
        packed(in_halves(cars), tgz),
        kaggle,
        stray,
        in_halves(cars) | in_one(cars),
    ]
    stores = [prepare("stanford_cars", write(tmp_path / f"{k}", files)) for k, files in enumerate(layouts)]
    stores.append(prepare("stanford_cars", saved(tmp_path / "cars.zip", zipped(in_halves(cars)))))
    assert table(stores[0]) == {s: {CARS[cls]: 2 for cls in SPLIT if SPLIT[cls] == s} for s in ("train", "val", "test")}
    assert all(images(store) == images(stores[0]) for store in stores)
    assert boxes(stores[0]) == {
        f"car_ims/{k:06d}.jpg": [x - 1, y - 1, right, bottom] for k, (_, _, (x, y, right, bottom)) in enumerate(cars, 1)
    }
    assert set(boxes(stores[2])) == {f"{half}/{k:05d}.jpg" for half in ("cars_train", "cars_test") for k in range(1, 5)}


def test_class_folders_of_cars_by_name_and_number_give_the_same_images(prepare, tmp_path, cars):
    named = {
        f"{'train' if k % 2 else 'test'}/{CARS[cls].replace('/', '-')}/{k:05d}.jpg": data
        for k, (cls, data, _) in enumerate(cars)
    }
    numbered = {f"{cls}/{k:05d}.jpg": data for k, (cls, data, _) in enumerate(cars)}
    padded = {
        f"{'train' if k % 2 else 'test'}/{cls if k % 2 else cls.zfill(3)}/{k:05d}.jpg": data
        for k, (cls, data, _) in enumerate(cars)
    }
    stores = [
        prepare("stanford_cars", write(tmp_path / f"{k}", files)) for k, files in enumerate((named, numbered, padded))
    ]
    stores.append(prepare("stanford_cars", saved(tmp_path / "cars.tar", tarred(named))))
    assert table(stores[0]) == {s: {CARS[cls]: 2 for cls in SPLIT if SPLIT[cls] == s} for s in ("train", "val", "test")}
    assert set(boxes(stores[0]).values()) == {None}
    # in the order of the file names, whichever half they are in
    assert len({store.index["sha256"] for store in stores}) == 1


def test_class_names_of_the_kit_are_taken_before_the_built_in_ones(prepare, tmp_path, cars):
    renamed = [f"Car {k}" for k in range(1, 197)]
    folders = {f"Car {cls}/{k}.jpg": data for k, (cls, data, _) in enumerate(cars)}
    store = prepare(
        "stanford_cars", write(tmp_path / "cars", folders | {"cars_meta.mat": mat(class_names=cells(renamed))})
    )
    assert table(store)["test"] == {f"Car {cls}": 2 for cls in SPLIT if SPLIT[cls] == "test"}


def test_the_names_of_cars_are_196_and_at_the_kits_numbers():
    assert len({stanford_cars._letters(name) for name in NAMES}) == len(NAMES) == 196
    at = {
        1: "AM General Hummer SUV 2000",
        6: "Acura Integra Type R 2001",
        26: "BMW ActiveHybrid 5 Sedan 2012",
        54: "Chevrolet Silverado 1500 Hybrid Crew Cab 2012",
        98: "Eagle Talon Hatchback 1998",
        123: "Geo Metro Convertible 1993",
        150: "Lamborghini Reventon Coupe 2008",
        174: "Ram C/V Cargo Van Minivan 2012",
        196: "smart fortwo Convertible 2012",
    }
    assert {k: NAMES[k - 1] for k in at} == at


def test_a_class_of_cars_may_be_absent_but_not_in_part(prepare, refused, tmp_path, cars):
    files = in_halves(cars)
    whole = {name: data for name, data in files.items() if name not in ("cars_train/00002.jpg", "cars_test/00002.jpg")}
    store = prepare("stanford_cars", write(tmp_path / "whole", whole))
    assert {cls for classes in table(store).values() for cls in classes} == set(CARS.values()) - {CARS["103"]}
    less = {name: data for name, data in files.items() if name != "cars_test/00003.jpg"}
    said = refused("stanford_cars", write(tmp_path / "less", less))
    assert "lacks 1 of the 2 listed images of class 10 (first cars_test/00003.jpg); get it whole" in said
    train = {name: data for name, data in files.items() if not name.startswith("cars_test/")}
    assert "(first cars_test/00001.jpg)" in refused("stanford_cars", write(tmp_path / "train", train))


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (
            "cars_test_annos_withlabels.mat",
            "but no cars_test_annos_withlabels.mat to say the classes; put it beside them",
        ),
        ("devkit/cars_train_annos.mat", "but no cars_train_annos.mat to say the classes"),
    ],
)
def test_cars_without_a_list_are_refused_by_its_name(refused, tmp_path, cars, gone, said):
    less = {name: data for name, data in in_halves(cars).items() if name != gone}
    assert said in refused("stanford_cars", write(tmp_path / "less", less))


def test_car_ims_without_its_list_and_folders_counted_from_0_are_refused(refused, tmp_path, cars):
    alone = {name: data for name, data in in_one(cars).items() if "cars_annos" not in name}
    assert "has car_ims, but no cars_annos.mat to say the classes" in refused(
        "stanford_cars", saved(tmp_path / "car_ims.tgz", tarred(alone, "w:gz"))
    )
    folders = {f"{k}/1.jpg": data for k, (_, data, _) in enumerate(cars)}
    said = refused("stanford_cars", write(tmp_path / "zero", folders))
    assert "a class folder 0, but Stanford Cars' classes are numbered from 1 to 196" in said


FIELDS = ("relative_im_path", *SIDES, "class", "test")
ROW = ("car_ims/000001.jpg", 2, 3, 6, 7, 1, 0)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: b"", "MatReadError"),
        (lambda: b"MATLAB 5.0 MAT-file" + bytes(500), ""),
        (lambda: b"\x89HDF\r\n\x1a\n" * 40, ""),
        (lambda: mat(class_names=cells(NAMES)), "KeyError('annotations')"),
        (lambda: mat(annotations=np.ones((2, 2)), class_names=cells(NAMES)), "TypeError"),
        (lambda: mat(annotations=structs(FIELDS[:-2], [ROW[:-2]]), class_names=cells(NAMES)), "class"),
        (
            lambda: mat(annotations=structs(FIELDS, [(*ROW[:5], 197, 0)]), class_names=cells(NAMES)),
            "class 197 of car_ims/000001.jpg",
        ),
        (lambda: mat(annotations=structs(FIELDS, [(*ROW[:5], 0, 0)]), class_names=cells(NAMES)), "class 0 of"),
        (lambda: mat(annotations=structs(FIELDS, [(ROW[0], "x", *ROW[2:])]), class_names=cells(NAMES)), "ValueError"),
        (
            lambda: mat(annotations=structs(FIELDS, [ROW]), class_names=cells(NAMES[:195])),
            "195 class names, 195 different",
        ),
        (
            lambda: mat(annotations=structs(FIELDS, [ROW]), class_names=cells(NAMES[:195] + NAMES[:1])),
            "196 class names, 195 different",
        ),
        (
            lambda: mat(annotations=structs(FIELDS, [ROW]), class_names=cells([*NAMES[:195], " "])),
            "196 class names, 195 different",
        ),
        (
            lambda: mat(annotations=structs(FIELDS, [ROW]), class_names=cells([*NAMES, NAMES[0]])),
            "197 class names, 196 different",
        ),
    ],
)
def test_a_damaged_list_of_cars_is_refused_in_a_sentence(refused, tmp_path, cars, make, why):
    said = refused("stanford_cars", write(tmp_path / "cars", in_one(cars) | {"cars_annos.mat": make()}))
    assert (
        "cars_annos.mat: is not one of Stanford Cars' lists (" in said
        and why in said
        and said.endswith("; get it again")
    )


def test_a_list_of_cars_that_would_unpack_to_too_much_is_not_unpacked(refused, tmp_path, cars, monkeypatch):
    annos = mat(class_names=cells(NAMES), annotations=np.zeros(1 << 18))
    assert len(annos) < 1 << 16
    monkeypatch.setattr(stanford_cars, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(stanford_cars, "loadmat", None)
    said = refused("stanford_cars", write(tmp_path / "cars", in_one(cars) | {"cars_annos.mat": annos}))
    assert "is not one of Stanford Cars' lists (ValueError('it has more than 1,048,576 bytes'))" in said
    loose = io.BytesIO()
    savemat(loose, {"class_names": cells(NAMES), "annotations": np.zeros(1 << 18)})
    files = in_one(cars) | {"cars_annos.mat": loose.getvalue()}
    assert "it has more than 1,048,576 bytes" in refused("stanford_cars", write(tmp_path / "cars", files))


def test_a_list_of_cars_cut_off_anywhere_is_refused(refused, tmp_path, cars):
    whole = in_one(cars)["cars_annos.mat"]
    for size in range(1, len(whole), len(whole) // 12):
        said = refused("stanford_cars", write(tmp_path / "cars", in_one(cars) | {"cars_annos.mat": whole[:size]}))
        assert "cars_annos.mat: is not one of Stanford Cars' lists (" in said


def test_a_single_car_in_a_list_is_read(prepare, tmp_path, cars):
    annos = mat(annotations=structs(FIELDS, [ROW]), class_names=cells(NAMES))
    store = prepare("stanford_cars", write(tmp_path / "one", in_one(cars) | {"cars_annos.mat": annos}))
    assert table(store) == {SPLIT["1"]: {CARS["1"]: 1}} and boxes(store) == {"car_ims/000001.jpg": [1, 2, 6, 7]}


# NABirds

BIRDS = {
    "0297": "Mallard (Breeding male)",
    "0313": "Barn Owl",
    "0503": "Heermann's  Gull (Adult )",
    "0817": "Snow Goose (Blue morph)",
    "1006": "Barn Owl",
}
IN = {cls: split for split, classes in class_split("nabirds").items() for cls in classes if cls in BIRDS}
CALLED = {
    "0297": "Mallard (Breeding male)",
    "0313": "Barn Owl (0313)",
    "0503": "Heermann's Gull (Adult )",
    "0817": "Snow Goose (Blue morph)",
    "1006": "Barn Owl (1006)",
}


@pytest.fixture(scope="module")
def birds(encoded) -> dict[str, bytes]:
    """Members of nabirds.tar.gz: two images of each class and the lists."""
    files, lists = {}, {"images": [], "image_class_labels": [], "bounding_boxes": [], "sizes": []}
    for i, cls in enumerate(BIRDS):
        for k in range(2):
            key = f"{9 - i:07d}{k}-21dc-4d0c-bfe1-4cae3c85c829"
            name = f"{cls}/{key.replace('-', '')}.jpg"
            files[f"images/{name}"] = encoded(10 * i + k, 8, 10, "JPEG")
            box = f"{1 + k} 2 {4 + 9 * k} 5"
            for column, value in zip(lists, (name, str(int(cls)), box, "10 8"), strict=True):
                lists[column].append(f"{key} {value}")
    files |= {f"{name}.txt": ("\n".join(lines) + "\n").encode() for name, lines in lists.items()}
    names = [
        "0 Birds",
        "1 Ducks, Geese, and Swans",
        "2 Snow Goose (Blue morph)",
        *(f"{int(cls)} {name}" for cls, name in BIRDS.items()),
    ]
    files |= {"classes.txt": ("\n".join(names) + "\n").encode(), "hierarchy.txt": b"1 0\n", "README": b"NABirds\n"}
    return below("nabirds", files)


def expected(called: dict[str, str] = CALLED) -> dict[str, dict[str, int]]:
    return {s: {called[cls]: 2 for cls in IN if IN[cls] == s} for s in ("train", "val", "test") if s in IN.values()}


def test_the_birds_of_these_tests_are_in_the_split():
    assert set(IN) == set(BIRDS) and len(set(IN.values())) > 1


def test_every_layout_of_nabirds_gives_the_same_store(prepare, tmp_path, birds):
    archive = saved(tmp_path / "nabirds.tar.gz", tarred(birds, "w:gz"))
    holding = write(tmp_path / "holding", {"nabirds.tar.gz": tarred(birds, "w:gz"), "papers/nabirds.pdf": b"terms"})
    unpacked = write(tmp_path / "unpacked", birds)
    notes = write(tmp_path / "notes", birds | {"a.txt": b"mine", "nabirds/parts/images.txt": b"deeper"})
    stores = [prepare("nabirds", source) for source in (archive, holding, unpacked, unpacked / "nabirds", notes)]
    assert len({store.index["sha256"] for store in stores}) == 1
    assert table(stores[0]) == expected()
    assert [list(classes) for classes in table(stores[0]).values()] == [
        list(classes) for classes in expected().values()
    ]
    found = boxes(stores[0])
    assert found["0297/0000009021dc4d0cbfe14cae3c85c829.jpg"] == [1, 2, 5, 7]
    assert found["0297/0000009121dc4d0cbfe14cae3c85c829.jpg"] == [2, 2, 10, 7]  # 2 + 13 is beyond the image


def test_class_folders_of_birds_need_no_lists(prepare, tmp_path, birds):
    images = {name: data for name, data in birds.items() if name.startswith("nabirds/images/")}
    store = prepare("nabirds", write(tmp_path / "images", images))
    assert table(store) == expected({cls: cls for cls in BIRDS}) and set(boxes(store).values()) == {None}
    named = images | {"nabirds/classes.txt": birds["nabirds/classes.txt"]}
    assert table(prepare("nabirds", saved(tmp_path / "birds.zip", zipped(named)))) == expected()


def test_birds_without_boxes_or_names_are_read(prepare, tmp_path, birds):
    less = {name: data for name, data in birds.items() if "bounding" not in name}
    less["nabirds/classes.txt"] = b"297 Mallard\n313\n1006 Barn Owl\n"
    store = prepare("nabirds", write(tmp_path / "less", less))
    called = {"0297": "Mallard", "0313": "0313", "0503": "0503", "0817": "0817", "1006": "Barn Owl"}
    assert table(store) == expected(called) and set(boxes(store).values()) == {None}


def test_the_labels_decide_a_birds_class_not_its_folder(prepare, tmp_path, birds):
    moved = {name: data.replace(b" 297\n", b" 1006\n") if "labels" in name else data for name, data in birds.items()}
    store = prepare("nabirds", write(tmp_path / "moved", moved))
    assert table(store)[IN["1006"]][CALLED["1006"]] == 4


def test_a_class_of_birds_may_be_absent_but_not_in_part(prepare, refused, tmp_path, birds):
    some = {name: data for name, data in birds.items() if "/0313/" not in name}
    store = prepare("nabirds", write(tmp_path / "some", some))
    assert {cls for classes in table(store).values() for cls in classes} == set(CALLED.values()) - {CALLED["0313"]}
    gone = "images/0503/0000007121dc4d0cbfe14cae3c85c829.jpg"
    less = {name: data for name, data in birds.items() if gone not in name}
    said = refused("nabirds", write(tmp_path / "less", less))
    assert "lacks 1 of the 2 listed images of class 0503 (first 0503/0000007121dc4d0cbfe14cae3c85c829.jpg)" in said


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("image_class_labels", lambda text: None, "has images.txt, but no image_class_labels.txt beside it"),
        (
            "image_class_labels",
            lambda text: text.replace(b" 297\n", b" mallard\n", 1),
            "has no valid line for 00000090-21dc",
        ),
        ("image_class_labels", lambda text: text[text.index(b"\n") + 1 :], "KeyError('00000090-21dc"),
        ("image_class_labels", lambda text: b"\xff\xfe" + text, "image_class_labels.txt: is not a text"),
        ("bounding_boxes", lambda text: text.replace(b" 5\n", b"\n", 1), "has no valid line for 00000090-21dc"),
        ("bounding_boxes", lambda text: text.replace(b" 5\n", b" 1e999\n", 1), "OverflowError"),
        ("bounding_boxes", lambda text: text[: len(text) // 2], "has no valid line for"),
        ("images", lambda text: b"\xff" + text, "images.txt: is not a text"),
        (
            "images",
            lambda text: text.replace(b" 0297/", b" 0297_", 1),
            "lacks 1 of the 2 listed images of class 0297",
        ),
        (
            "classes",
            lambda text: text.replace(b"297 Mallard (Breeding male)", b"297 0313"),
            "names classes by numbers of others",
        ),
        (
            "classes",
            lambda text: text.replace(b"297 Mallard (Breeding male)", b"297 Barn Owl (1006)"),
            "numbers of others",
        ),
        ("classes", lambda text: b"\x80" + text, "classes.txt: is not a text"),
    ],
)
def test_a_damaged_list_of_birds_is_refused_in_a_sentence(refused, tmp_path, birds, name, change, why):
    text = change(birds[f"nabirds/{name}.txt"])
    files = {at: data for at, data in birds.items() if at != f"nabirds/{name}.txt"}
    files |= {f"nabirds/{name}.txt": text} if text is not None else {}
    said = refused("nabirds", write(tmp_path / "birds", files))
    assert why in said and "get it" in said.partition("; ")[2]


def test_a_list_of_birds_may_not_be_too_long(refused, tmp_path, birds, monkeypatch):
    monkeypatch.setattr(nabirds, "MAX_BYTES", 100)
    assert "images.txt: has 790 bytes, NABirds' lists less than 100" in refused("nabirds", write(tmp_path / "b", birds))


# All three


@pytest.mark.parametrize("dataset", BUILDERS)
def test_a_source_without_any_of_the_classes_is_refused(refused, tmp_path, encoded, dataset):
    said = refused(dataset, write(tmp_path / "cats", {"cats/1.jpg": encoded(0, form="JPEG")}))
    assert "cats: holds none of " in said and f"--from takes {BUILDERS[dataset].source}" in said
    assert "holds none of " in refused(dataset, write(tmp_path / "empty", {"README": b""}))
    assert "does not exist; give --from" in refused(dataset, tmp_path / "nowhere")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("dataset", "archive"),
    [
        ("stanford_dogs", "images.tar"),
        ("stanford_dogs", "annotation.tar"),
        ("stanford_cars", "cars_train.tgz"),
        ("nabirds", "nabirds.tar.gz"),
    ],
)
def test_hostile_members_are_refused(refused, tmp_path, dogs, dataset, archive, nested):
    for name, kind, why in [
        ("../evil.jpg", tarfile.REGTYPE, "climbs out of its folder"),
        ("a/link.jpg", tarfile.SYMTYPE, "is a link or device"),
    ]:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as out:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            out.addfile(info, io.BytesIO())
        folder = write(tmp_path / kind.decode(), {archive: file.getvalue(), "README": b""})
        assert why in refused(dataset, folder if nested else folder / archive)


def test_a_truncated_archive_in_a_folder_is_refused_by_its_name(refused, tmp_path, dogs, birds):
    folder = write(tmp_path / "dogs", {"images.tar": tarred(dogs)[:-12000], "annotation.tar": tarred({})})
    assert f"{folder}/images.tar: is truncated or damaged" in refused("stanford_dogs", folder)
    cut = write(tmp_path / "birds", {"nabirds.tar.gz": tarred(birds, "w:gz")[:-2000]})
    assert f"{cut}/nabirds.tar.gz: is truncated or damaged" in refused("nabirds", cut)


# Species

OF_NABIRDS = {
    "Common Eider (Adult male)": None,
    "Mallard (Breeding male)": "Mallard",
    "Mallard (Female/Eclipse male)": "Mallard",
    "Heermann's Gull (Adult)": "Heermann_Gull",
    "Anna's Hummingbird (Adult Male)": "Anna_Hummingbird",
    "Allen's Hummingbird (Female/immature)": None,
    "Northern Cardinal (Female/Juvenile)": "Cardinal",
    "Yellow-rumped Warbler (Breeding Audubon's)": "Myrtle_Warbler",
    "Dark-eyed Junco (White-winged)": "Dark_eyed_Junco",
    "Northern Flicker (Yellow-shafted)": "Northern_Flicker",
    "House Finch (Adult Male)": None,
    "Barn Owl": None,
    "Red-headed Woodpecker (Adult)": "Red_headed_Woodpecker",
    "Red-bellied Woodpecker": "Red_bellied_Woodpecker",
    "Le Conte's Sparrow": "Le_Conte_Sparrow",
    "LeConte's Sparrow": "Le_Conte_Sparrow",
    "Harris’s Sparrow": "Harris_Sparrow",
    "Forster's Tern": "Forsters_Tern",
    "Chuck-will's-widow": "Chuck_will_Widow",
    "Grey Catbird": "Gray_Catbird",
    "Gray-crowned Rosy-Finch": "Gray_crowned_Rosy_Finch",
    "Brewer's Blackbird (Male)": "Brewer_Blackbird",
    "Brewer's Sparrow": "Brewer_Sparrow",
    "Baltimore Oriole (Female/Immature male)": "Baltimore_Oriole",
    "Northern Mockingbird": "Mockingbird",
    "Eastern Phoebe": "Sayornis",
    "American White Pelican": "White_Pelican",
    "Florida Scrub-Jay": "Florida_Jay",
    "Arctic Tern": "Artic_Tern",
    "Nelson's Sparrow": "Nelson_Sharp_tailed_Sparrow",
    "Northern Shrike": "Great_Grey_Shrike",
    "Common Nighthawk": "Nighthawk",
    "Greater Roadrunner": "Geococcyx",
    "Magnificent Frigatebird": "Frigatebird",
    "Eastern Whip-poor-will": "Whip_poor_Will",
    "Western Gull (Adult": "Western_Gull",
    "Black-billed Magpie": None,
    "Common Grackle": None,
    "0297": None,
    "Boat-tailed Grackle (0950)": "Boat_tailed_Grackle",
}
OF_CUB = [cls for classes in class_split("cub").values() for cls in classes]


def test_species_of_cub_and_nabirds_match_both_ways():
    assert shared(list(OF_NABIRDS), OF_CUB) == [name for name, cub in OF_NABIRDS.items() if cub]
    both = {cub for cub in OF_NABIRDS.values() if cub}
    assert shared(OF_CUB, list(OF_NABIRDS)) == [cls for cls in OF_CUB if cls.partition(".")[2] in both]
    assert len(both) == len(shared(OF_CUB, list(OF_NABIRDS)))


@pytest.mark.parametrize(("name", "cub"), [(name, cub) for name, cub in OF_NABIRDS.items() if cub])
def test_a_species_of_nabirds_is_the_one_of_cub_and_no_other(name, cub):
    assert [cls.partition(".")[2] for cls in shared(OF_CUB, [name])] == [cub]


def test_no_two_classes_of_cub_are_one_species_and_names_that_are_numbers_match_none():
    assert all(shared(OF_CUB, [cls]) == [cls] for cls in OF_CUB)
    assert shared(["0297", "1", "(Adult)"], ["0297", "297", "(Adult)", "Mallard"]) == []
