"""CIFAR-10, CIFAR-100 (Krizhevsky 2009) and CIFAR-10.1 (Recht et al. 2018) for ordinary classification.

They are not split by class: every split has all classes, in the order of their public labels. The images of a class
are stored in the order of their SHA-256, so that the store is the same whatever it was made from. A validation split
takes the first training images of each class in that order, so a larger one contains a smaller one.
"""

import hashlib
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

import numpy as np
from pydantic import Field

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options, OptionsT
from fewshot_cli.data.archive import Source
from fewshot_cli.data.datasets.cifar_fs import FC100
from fewshot_cli.data.decode import decode_image
from fewshot_cli.data.format import SPLITS
from fewshot_cli.data.kinds import is_image
from fewshot_cli.data.layouts import classes_of
from fewshot_cli.data.pickles import tame_pickle
from fewshot_cli.errors import DataError

SIDE = 32
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = tuple(sorted(classes_of("cifar_fs")))
_MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError)

Images = dict[str, dict[str, list[np.ndarray]]]
"""Part (train, test) → class → images uint8 [32,32,3]."""


class HeldOut(Options):
    """What is held out of the training images."""

    validation: int = Field(0, ge=0, lt=5000, description="images of each class moved from train to a val split")


class Cifar100Options(HeldOut):
    """What is held out of the training images."""

    validation: int = Field(0, ge=0, lt=500, description="images of each class moved from train to a val split")


class Cifar10Options(HeldOut):
    """What is held out of the training images."""


HeldOutT = TypeVar("HeldOutT", bound=HeldOut)


class _Plain(DatasetBuilder[OptionsT]):
    title: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    each: ClassVar[dict[str, int]]  # images per class, by part
    licence = "CIFAR-10 and CIFAR-100 by Krizhevsky, Nair and Hinton; for research"

    def _store(self, images: Images, path: Path, writer: ImageSink, validation: int = 0) -> None:
        """Write the splits. Raises `DataError` unless each part has the public number of images of every class."""
        for part, each in self.each.items():
            for cls in self.classes:
                if (count := len(images.get(part, {}).get(cls, []))) != each:
                    raise DataError(
                        f"{path}: has {count:,} {part} images of class {cls}, {self.title} has {each:,}; "
                        "get a whole copy"
                    )
        spans = {"train": ("train", validation, None), "val": ("train", 0, validation), "test": ("test", 0, None)}
        for split in SPLITS:
            part, first, end = spans[split]
            for cls in self.classes if part in self.each else ():
                ordered = sorted(images[part][cls], key=lambda pixels: hashlib.sha256(pixels.tobytes()).digest())
                for number, pixels in list(enumerate(ordered))[first:end]:
                    writer.add(split, cls, pixels, f"{cls}/{part}_{number:04d}")


class _Batches(_Plain[HeldOutT]):
    """A dataset published as pickles, one with the names of the classes and one or more for each part."""

    batches: ClassVar[dict[str, tuple[str, ...]]]  # file names, by part
    meta: ClassVar[tuple[str, bytes]]  # file name, and key of the names in it
    labels: ClassVar[bytes]

    def __init__(self, options: HeldOutT | None = None) -> None:
        super().__init__(options)
        if self.options.validation:
            self.sha256 = None  # that of the store without a val split

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write train, val when it is asked for, and test, each with all classes in the order of their labels."""
        with Source(sources[0], writer.target.parent) as files:
            images = self._read(files)
        self._store(images, sources[0], writer, self.options.validation)

    def _read(self, files: Source) -> Images:
        needed = [self.meta[0], *(name for names in self.batches.values() for name in names)]
        members = _together(files, needed)
        missing = [name for name in needed if name not in members]
        if not missing:
            return self._from_batches(files, members)
        if images := self._from_folders(files):
            return images
        if members:
            raise DataError(
                f"{files.path}: has {min(members.values())} but lacks {missing[0]} beside it, which belongs "
                f"to the python version of {self.title}; download it again"
            )
        raise DataError(
            f"{files.path}: holds neither the python version of {self.title} nor its images in "
            f"train|test/<class>/; --from takes {self.source}"
        )

    def _from_batches(self, files: Source, members: dict[str, str]) -> Images:
        out: Images = {part: defaultdict(list) for part in self.batches}
        file, key = self.meta
        name = members[file]
        try:
            names = [n.decode() for n in tame_pickle(files.read(name), f"{files.path}/{name}")[key]]
            if sorted(names) != sorted(self.classes):
                raise ValueError(f"its classes are not the {len(self.classes)} of {self.title}")
            for part, batches in self.batches.items():
                for name in map(members.__getitem__, batches):
                    batch = tame_pickle(files.read(name), f"{files.path}/{name}")
                    data = np.asarray(batch[b"data"])
                    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * SIDE * SIDE:
                        raise ValueError(f"its images are {data.dtype} {list(data.shape)}, not uint8 [N,3072]")
                    data = np.ascontiguousarray(data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
                    for pixels, label in zip(data, _labels(batch[self.labels], len(data), len(names)), strict=True):
                        out[part][names[label]].append(pixels)
        except _MALFORMED as error:
            raise DataError(
                f"{files.path}/{name}: is not of the python version of {self.title} ({error!r}); download it again"
            ) from error
        return out

    def _from_folders(self, files: Source) -> Images:
        """Images in `train|test/<class>/`, also with a superclass's folder between."""
        out: Images = {part: defaultdict(list) for part in self.batches}
        for name in files.names:
            pure = PurePosixPath(name)
            part = next((p for p in reversed(pure.parts[:-2]) if p in out), None)
            if part is None or not is_image(pure):
                continue
            if pure.parent.name not in self.classes:
                raise DataError(
                    f"{files.path}/{name}: {pure.parent.name} is none of {self.title}'s {len(self.classes)} "
                    f"classes; --from takes {self.source}"
                )
            where = f"{files.path}/{name}"
            pixels, size = decode_image(files.read(name), where, SIDE)
            if size.tolist() != [SIDE, SIDE]:
                raise DataError(f"{where}: is not {SIDE}×{SIDE}; {self.title}'s images are")
            out[part][pure.parent.name].append(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        return out if any(out.values()) else {}


class CIFAR100(_Batches[Cifar100Options]):
    """CIFAR-100: the same 100 classes in train (500 images each) and test (100 each), 32×32, by fine label.

    With validation=N, N of each class's training images are a val split: the first in the order of their SHA-256.
    """

    title = "CIFAR-100"
    classes = CIFAR100_CLASSES
    each = {"train": 500, "test": 100}
    batches = {"train": ("train",), "test": ("test",)}
    meta = ("meta", b"fine_label_names")
    labels = b"fine_labels"
    source = (
        "cifar-100-python.tar.gz, its unpacked folder, or a folder (or archive) "
        "train|test/<class>/<image> of 32×32 images"
    )
    urls = FC100.urls
    sha256 = "8652d532a5685b4ff006c695b596a64c6cd373310706b6a7075e07d2ab78e003"


class CIFAR10(_Batches[Cifar10Options]):
    """CIFAR-10: the same 10 classes in train (5,000 images each) and test (1,000 each), 32×32.

    With validation=N, N of each class's training images are a val split: the first in the order of their SHA-256.
    """

    title = "CIFAR-10"
    classes = CIFAR10_CLASSES
    each = {"train": 5000, "test": 1000}
    batches = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)}
    meta = ("batches.meta", b"label_names")
    labels = b"labels"
    source = (
        "cifar-10-python.tar.gz, its unpacked folder, or a folder (or archive) "
        "train|test/<class>/<image> of 32×32 images"
    )
    urls = {
        "cifar-10-python.tar.gz": (
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        )
    }


class CIFAR101(_Plain[Options]):
    """CIFAR-10.1 v6: 2,000 newer test images of CIFAR-10's classes, 200 each, 32×32; only a test split."""

    title = "CIFAR-10.1 v6"
    classes = CIFAR10_CLASSES
    each = {"test": 200}
    source = "a folder or archive that holds cifar10.1_v6_data.npy and cifar10.1_v6_labels.npy"
    urls = {
        "cifar10.1_v6_data.npy": (
            "https://github.com/modestyachts/CIFAR-10.1/raw/master/datasets/cifar10.1_v6_data.npy",
            "2997188e5816f5bd545dc77771b6227828c28146049fcecf3fa10775474cacc6",
        ),
        "cifar10.1_v6_labels.npy": (
            "https://github.com/modestyachts/CIFAR-10.1/raw/master/datasets/cifar10.1_v6_labels.npy",
            "ae40beda001693674edc94d925ee8268cfe68905f8f9aff800c8dcdfcd6c9448",
        ),
    }
    licence = (
        "CIFAR-10.1 by Recht, Roelofs, Schmidt and Shankar; its images are of Tiny Images, on whose terms they are used"
    )

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write test, classes in the order of CIFAR-10's labels. Either file stands for the folder it lies in."""
        path = sources[0].parent if sources[0].suffix == ".npy" else sources[0]
        with Source(path, writer.target.parent) as files:
            members = _together(files, list(self.urls))
            if missing := [name for name in self.urls if name not in members]:
                raise DataError(f"{path}: lacks {' and '.join(missing)}; --from takes {self.source}")
            data, labels = (_array(files, members[name]) for name in self.urls)
        if data.dtype != np.uint8 or data.ndim != 4 or data.shape[1:] != (SIDE, SIDE, 3):
            raise DataError(
                f"{path}/{members['cifar10.1_v6_data.npy']}: its images are {data.dtype} {list(data.shape)}, "
                "not uint8 [N,32,32,3]; download it again"
            )
        try:
            numbers = _labels(labels, len(data), len(self.classes))
        except ValueError as error:
            raise DataError(f"{path}/{members['cifar10.1_v6_labels.npy']}: {error}; download it again") from error
        images: dict[str, list[np.ndarray]] = defaultdict(list)
        for pixels, label in zip(data, numbers, strict=True):
            images[self.classes[label]].append(pixels)
        self._store({"test": images}, path, writer)


def _together(files: Source, needed: list[str]) -> dict[str, str]:
    """Which of the needed files lie in one folder, and their paths: of several folders the fullest, then the highest.

    Raises `DataError` when two folders at one height hold them all.
    """
    folders: dict[PurePosixPath, dict[str, str]] = defaultdict(dict)
    for name in files.names:
        pure = PurePosixPath(name)
        if pure.name in needed:
            folders[pure.parent][pure.name] = name
    ranks = sorted((-len(members), len(folder.parts), folder) for folder, members in folders.items())
    if len(ranks) > 1 and ranks[0][:2] == ranks[1][:2] and -ranks[0][0] == len(needed):
        raise DataError(
            f"{files.path}: has {needed[-1]} and what belongs to it twice ({ranks[0][2]}, {ranks[1][2]}); "
            "give --from one of the folders"
        )
    return folders[ranks[0][2]] if ranks else {}


def _labels(labels: Any, count: int, classes: int) -> list[int]:
    """Labels as numbers of classes. Raises `ValueError` unless there is a valid one for each of `count` images."""
    numbers = np.asarray(labels)
    if numbers.ndim != 1 or len(numbers) != count:
        raise ValueError(f"its labels are {list(numbers.shape)} for {count:,} images")
    if count and (numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= classes):
        raise ValueError(f"its labels are not numbers from 0 to {classes - 1}")
    return numbers.tolist()


def _array(files: Source, name: str) -> np.ndarray:
    where = f"{files.path}/{name}"
    with files.open(name) as stream:
        try:
            array = np.load(stream, allow_pickle=False)
        except Exception as error:  # NumPy does not document what it raises on a damaged file
            raise DataError(f"{where}: is not a whole .npy file ({error}); download it again") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{where}: is an archive of arrays, not one array; download it again")
    return array
