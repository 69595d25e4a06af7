"""ILSVRC2012 (Russakovsky et al. 2015): ImageNet's 1,000 classes for ordinary classification, the same in both splits.

Labels of validation images that lie in no class folders come from a file with one line per image: its class
(`n01751748`), in the order of the numbers in the images' names; or the image's name and its class, separated by a comma
or a space; or, in the development kit, a number that its meta.mat explains.
"""

import io
import re
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import ClassVar

from pydantic import Field
from scipy.io import loadmat

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.imagenet import COLLECTIONS, LICENCE, WNID, ClassFolders, absent, class_folder, number
from fewshot_cli.data.kinds import is_image
from fewshot_cli.data.layouts import ARCHIVE_SUFFIXES, lone_archive
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import progress
from fewshot_cli.runtime.files import guarded

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
LABELS = ("imagenet_2012_validation_synset_labels.txt", "LOC_val_solution.csv", _TRUTH)  # in the order of preference
MAX_META = 1 << 20  # bytes; the public one has 0.2 MB
_CLASS_TAR = re.compile(r"n\d{8}\.tar", re.IGNORECASE)
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})")


class ILSVRC2012Options(Options):
    """Where the classes of the validation images are listed."""

    labels: str | None = Field(None, description="file with the validation images' classes, if not in the source")


class ILSVRC2012(DatasetBuilder[ILSVRC2012Options]):
    """ILSVRC2012: 1,000 classes of ImageNet; its training images are train, the public validation images test.

    ImageNet may not be redistributed, so nothing is downloaded. --from takes a folder that holds, at any depth:

    - the training images: class folders n01440764/n01440764_18.JPEG, class tars n01440764.tar, or
      ILSVRC2012_img_train.tar; and
    - the validation images, named ILSVRC2012_val_00000001.JPEG: in class folders, or in one folder or
      ILSVRC2012_img_val.tar with a file of labels: imagenet_2012_validation_synset_labels.txt, LOC_val_solution.csv,
      ILSVRC2012_devkit_t12.tar.gz or its folder, or any text file given by --set labels=FILE.

    A tar or zip of such class folders or class tars works too. Images are stored as they are encoded, classes in
    the order of their numbers in WordNet, images of a class by the numbers in their names. Every image is decoded
    once, to check that it is whole, which takes hours.
    """

    classes: ClassVar[int] = 1000
    published: ClassVar[dict[str, int]] = {"train": 1_281_167, "test": 50_000}  # images
    source = (
        "ImageNet's training and validation images of 2012 (image-net.org, after accepting its terms); "
        "`fsl show dataset ilsvrc2012` lists the layouts"
    )
    licence = LICENCE
    within = COLLECTIONS

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write train, then test, class by class, images by number."""
        scratch = writer.target.parent
        with ExitStack() as stack:
            files = stack.enter_context(Source(lone_archive(sources[0]), scratch))
            train, val = (_inside(files, tar, scratch, stack) for tar in (TRAIN, VAL))
            labelled = self._validation(files, val, scratch)
            folders = ClassFolders(train, scratch)
            if missing := [wnid for wnid in labelled if wnid not in folders]:
                raise absent(train.path, "ILSVRC2012", missing, len(labelled), self.source)
            packed = any(_CLASS_TAR.fullmatch(PurePosixPath(name).name) for name in train.names)
            if not packed:  # missing images can be reported before hours of work
                self._require_all(train.path, sum(_wnid(name) in labelled for name in train.names))
            with progress("ilsvrc2012, classes", 2 * len(labelled)) as bar:
                empty = []
                for done, wnid in enumerate(labelled, 1):
                    with folders.opened(wnid) as (source, names):
                        named = [name for name in names if _wnid(name) == wnid]
                        for name in named:
                            writer.add("train", wnid, source.read(name), f"{wnid}/{PurePosixPath(name).name}")
                    empty += [] if named else [wnid]
                    bar.update(done)
                self._require_all(train.path, writer.count("train"))
                if empty:
                    raise DataError(f"{train.path}: holds no training images of class {empty[0]}; get it again")
                for done, (wnid, names) in enumerate(labelled.items(), len(labelled) + 1):
                    for name in names:
                        writer.add("test", wnid, val.read(name), f"{wnid}/{PurePosixPath(name).name}")
                    bar.update(done)

    def _require_all(self, path: Path, count: int) -> None:
        if count != (published := self.published["train"]):
            raise DataError(
                f"{path}: has {count:,} images named like n01440764_18.JPEG of ILSVRC2012's classes, "
                f"its training set has {published:,}; get it whole"
            )

    def _validation(self, files: Source, val: Source, scratch: Path) -> dict[str, list[str]]:
        """Names of the validation images by class, classes sorted, images by number."""
        images: dict[int, str] = {}
        for name in val.names:
            if (match := _VAL.fullmatch(PurePosixPath(name).stem)) and is_image(name):
                k = int(match[1])
                if k in images:
                    raise DataError(
                        f"{val.path}: has validation image {k} twice ({images[k]}, {name}); "
                        "give --from one of the folders"
                    )
                images[k] = name
        if sorted(images) != list(range(1, self.published["test"] + 1)):
            raise DataError(
                f"{val.path}: has {len(images):,} validation images named like ILSVRC2012_val_00000001.JPEG, "
                f"ILSVRC2012 has {self.published['test']:,}; --from takes {self.source}"
            )
        where: Path | str = val.path
        classes = {k: wnid for k, name in images.items() if (wnid := class_folder(name))}
        if len(classes) < len(images):
            where, classes = self._labels(files, scratch)
        if set(classes) != set(images):
            raise DataError(
                f"{where}: has classes for {len(classes):,} validation images, there are {len(images):,}; "
                "get the whole file"
            )
        groups: dict[str, list[str]] = defaultdict(list)
        for k in sorted(images):
            groups[classes[k]].append(images[k])
        each = self.published["test"] // self.classes
        if odd := next((wnid for wnid, names in sorted(groups.items()) if len(names) != each), None):
            raise DataError(
                f"{where}: puts {len(groups[odd])} validation images into class {odd}, "
                f"ILSVRC2012 has {each} of each of {self.classes:,} classes; get the right labels"
            )
        return dict(sorted(groups.items()))

    def _labels(self, files: Source, scratch: Path) -> tuple[Path | str, dict[int, str]]:
        """The file that labels the validation images, and the class of each image by number."""
        if self.options.labels:
            path = Path(self.options.labels)
            if not path.is_dir() and not path.name.endswith(ARCHIVE_SUFFIXES):
                return path, _labels_in_file(path)
            with Source(path, scratch, "--set labels=FILE") as kit:
                labels = _labels_in(kit)
        else:
            path, labels = files.path, _labels_in(files)
            devkit = next((name for name in files.names if PurePosixPath(name).name == DEVKIT), None)
            if labels is None and devkit and path.is_dir():
                with Source(path / devkit, scratch) as kit:
                    labels = _labels_in(kit)
        if labels is None:
            raise DataError(
                f"{path}: the validation images are not in class folders, and none of {', '.join(LABELS)} and "
                f"{DEVKIT} is there to say their classes; put one beside them or give --set labels=FILE"
            )
        return labels


def _inside(files: Source, tar: str, scratch: Path, stack: ExitStack) -> Source:
    """One of the official tars if it is there, else the source itself."""
    name = next((name for name in files.names if PurePosixPath(name).name == tar), None)
    if name is None:
        return files
    if not files.path.is_dir():
        raise DataError(f"{files.path}: holds {name}, an archive of its own; unpack the outer one and give its folder")
    return stack.enter_context(Source(files.path / name, scratch))


def _wnid(name: str) -> str | None:
    """The class in the name of a training image."""
    key = number(name, listed=False)
    return key[0] if key else None


def _labels_in_file(path: Path) -> dict[int, str]:
    """The class of each validation image by number, from a text file and, in an unpacked kit, its meta.mat."""
    with guarded(path):
        meta = path.with_name(_META)
        numbered = _synsets(meta.read_bytes(), meta) if path.name == _TRUTH and meta.is_file() else {}
        return _parse(path.read_bytes(), path, numbered)


def _labels_in(files: Source) -> tuple[str, dict[int, str]] | None:
    """As `_labels`, from the first known file of labels; None when there is none."""
    by_name = {PurePosixPath(name).name: name for name in reversed(files.names)}
    name = next((by_name[known] for known in LABELS if known in by_name), None)
    if name is None:
        return None
    meta = PurePosixPath(name).with_name(_META).as_posix()
    kit = PurePosixPath(name).name == _TRUTH and meta in files.names
    numbered = _synsets(files.read(meta), f"{files.path}/{meta}") if kit else {}
    where = f"{files.path}/{name}"
    return where, _parse(files.read(name), where, numbered)


def _synsets(data: bytes, where: Path | str) -> dict[int, str]:
    """The development kit's classes by their numbers."""
    if len(data) > MAX_META:
        raise DataError(f"{where}: has {len(data):,} bytes, the development kit's less than {MAX_META:,}; get it again")
    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    except Exception as error:  # SciPy does not document what it raises on a damaged file
        raise DataError(f"{where}: is not the development kit's list of classes ({error!r}); get it again") from error


def _parse(data: bytes, where: Path | str, numbered: dict[int, str]) -> dict[int, str]:
    """The class of each validation image by number; `numbered` are the development kit's classes by their numbers."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not a text of labels ({error.reason}); get it again") from error
    out: dict[int, str] = {}
    for row, line in enumerate(lines, 1):
        words = re.split(r"[\s,]+", line.strip())
        if words == [""] or (row == 1 and words[0] == "ImageId"):
            continue
        named = _VAL.fullmatch(PurePosixPath(words[0]).stem)
        key, cls = (int(named[1]), words[1] if len(words) > 1 else "") if named else (len(out) + 1, words[0])
        if not named and cls.isdecimal():
            if not numbered:
                raise DataError(
                    f"{where}:{row}: {cls} is a number that {_META} of {DEVKIT} explains; put that beside it"
                )
            cls = numbered.get(int(cls), cls)
        if not WNID.fullmatch(cls) or (not named and len(words) > 1):
            raise DataError(
                f"{where}:{row}: {line.strip()[:60]!r} is neither a class such as n01751748 nor a validation "
                "image's name and its class; get the right labels"
            )
        if key in out:
            raise DataError(f"{where}:{row}: validation image {key} has a class already; get the right labels")
        out[key] = cls
    return out
