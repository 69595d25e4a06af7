"""ILSVRC2012 (Russakovsky et al. 2015): ImageNet's 1,000 classes for ordinary classification, the same in both splits.

Labels of validation pictures that lie in no class folders come from a file: a line a picture, in the order of the
numbers in their names, that holds the class (`n01751748`); or lines that begin with the picture's name and the class,
parted by a comma or a space; or the development kit, whose lines are numbers that its meta.mat explains.
"""

import io
import re
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import ClassVar

from pydantic import Field
from scipy.io import loadmat

from fewshot_cli.contracts import DatasetBuilder, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.imagenet import LICENCE, ClassFolders, absent, holder, number
from fewshot_cli.data.layouts import PICTURES
from fewshot_cli.data.store import StoreWriter
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import progress
from fewshot_cli.runtime.files import guarded

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
LABELS = ("imagenet_2012_validation_synset_labels.txt", "LOC_val_solution.csv", _TRUTH)  # looked for in this order
MAX_META = 1 << 20  # bytes; the public one has 0.2 MB
_WNID = re.compile(r"n\d{8}")
_CLASS_TAR = re.compile(r"n\d{8}\.tar", re.IGNORECASE)
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})")


class ILSVRC2012Options(Options):
    """Where the classes of the validation pictures are written down."""

    labels: str | None = Field(None, description="file with the validation pictures' classes, if not in the source")


class ILSVRC2012(DatasetBuilder[ILSVRC2012Options]):
    """ILSVRC2012: 1,000 classes of ImageNet; its training pictures are train, the public validation pictures test.

    ImageNet may not be passed on, so nothing is downloaded. --from takes a folder that holds, at any depth:

    - the training pictures: class folders n01440764/n01440764_18.JPEG, class tars n01440764.tar, or
      ILSVRC2012_img_train.tar; and
    - the validation pictures, named ILSVRC2012_val_00000001.JPEG: in class folders, or in one folder or
      ILSVRC2012_img_val.tar with a file of labels: imagenet_2012_validation_synset_labels.txt, LOC_val_solution.csv,
      ILSVRC2012_devkit_t12.tar.gz or its folder, or any text file given by --set labels=FILE.

    A tar or zip of such class folders or class tars will do too. Pictures are stored as they are encoded, classes in
    the order of their numbers in WordNet, pictures of a class by the numbers in their names. Every picture is decoded
    once, to be sure of it, which takes hours.
    """

    classes: ClassVar[int] = 1000
    published: ClassVar[dict[str, int]] = {"train": 1_281_167, "test": 50_000}  # pictures
    source = (
        "ImageNet's training and validation pictures of 2012 (image-net.org, after accepting its terms); "
        "`fsl show dataset ilsvrc2012` lists the layouts"
    )
    licence = LICENCE

    def build(self, sources: list[Path], writer: StoreWriter) -> None:
        """Write train, then test, class by class, pictures by number."""
        scratch = writer.target.parent
        with ExitStack() as stack:
            files = stack.enter_context(Source(holder(sources[0]), scratch))
            train, val = (_inside(files, tar, scratch, stack) for tar in (TRAIN, VAL))
            labelled = self._validation(files, val, scratch)
            folders = ClassFolders(train, scratch)
            if missing := [wnid for wnid in labelled if wnid not in folders]:
                raise absent(train.path, "ILSVRC2012", missing, len(labelled), self.source)
            packed = any(_CLASS_TAR.fullmatch(PurePosixPath(name).name) for name in train.names)
            if not packed:  # then what is missing can be said before hours of work
                self._require_all(train.path, sum(_wnid(name) in labelled for name in train.names))
            with progress("ilsvrc2012, classes", 2 * len(labelled)) as bar:
                for done, wnid in enumerate(labelled):
                    with folders.opened(wnid) as (source, names):
                        for name in (n for n in names if _wnid(n) == wnid):
                            writer.add("train", wnid, source.read(name), f"{wnid}/{PurePosixPath(name).name}")
                    bar.update(done + 1)
                self._require_all(train.path, len(writer.parts["train"].label) if writer.parts else 0)
                if lacking := next((wnid for wnid in labelled if wnid not in writer.parts["train"].classes), None):
                    raise DataError(f"{train.path}: holds no training pictures of class {lacking}; get it again")
                for done, (wnid, names) in enumerate(labelled.items(), len(labelled)):
                    for name in names:
                        writer.add("test", wnid, val.read(name), f"{wnid}/{PurePosixPath(name).name}")
                    bar.update(done + 1)

    def _require_all(self, path: Path, count: int) -> None:
        if count != (published := self.published["train"]):
            raise DataError(
                f"{path}: has {count:,} pictures named like n01440764_18.JPEG of ILSVRC2012's classes, "
                f"its training set has {published:,}; get it whole"
            )

    def _validation(self, files: Source, val: Source, scratch: Path) -> dict[str, list[str]]:
        """Names of the validation pictures by class, classes sorted, pictures by number."""
        pictures: dict[int, str] = {}
        for name in val.names:
            pure = PurePosixPath(name)
            if (found := _VAL.fullmatch(pure.stem)) and pure.suffix.lower() in PICTURES:
                k = int(found[1])
                if k in pictures:
                    raise DataError(
                        f"{val.path}: has validation picture {k} twice ({pictures[k]}, {name}); "
                        "give --from one of the folders"
                    )
                pictures[k] = name
        if sorted(pictures) != list(range(1, self.published["test"] + 1)):
            raise DataError(
                f"{val.path}: has {len(pictures):,} validation pictures named like ILSVRC2012_val_00000001.JPEG, "
                f"ILSVRC2012 has {self.published['test']:,}; --from takes {self.source}"
            )
        where, classes = val.path, {k: _folder(name) for k, name in pictures.items()}
        if None in classes.values():
            where, classes = self._labels(files, scratch)
        if set(classes) != set(pictures):
            raise DataError(
                f"{where}: has classes for {len(classes):,} validation pictures, there are {len(pictures):,}; "
                "get the whole file"
            )
        groups: dict[str, list[str]] = defaultdict(list)
        for k in sorted(pictures):
            groups[classes[k]].append(pictures[k])
        each = self.published["test"] // self.classes
        if odd := next((wnid for wnid, names in sorted(groups.items()) if len(names) != each), None):
            raise DataError(
                f"{where}: puts {len(groups[odd])} validation pictures into class {odd}, "
                f"ILSVRC2012 has {each} of each of {self.classes:,} classes; get the right labels"
            )
        return dict(sorted(groups.items()))

    def _labels(self, files: Source, scratch: Path) -> tuple[Path | str, dict[int, str]]:
        """Where it is written, and the class of each validation picture by number."""
        if self.options.labels:
            path = Path(self.options.labels)
            if not path.is_dir() and not path.name.endswith((".tar.gz", ".tgz", ".tar", ".zip")):
                with guarded(path):
                    meta = path.with_name(_META)
                    kit = meta.read_bytes() if path.name == _TRUTH and meta.is_file() else None
                    return path, _parse(path.read_bytes(), path, _synsets(kit, meta) if kit is not None else {})
            with Source(path, scratch, "--set labels=FILE") as kit:
                found = _written(kit)
        else:
            path, found = files.path, _written(files)
            at = next((name for name in files.names if PurePosixPath(name).name == DEVKIT), None)
            if found is None and at and path.is_dir():
                with Source(path / at, scratch) as kit:
                    found = _written(kit)
        if found is None:
            raise DataError(
                f"{path}: the validation pictures are not in class folders, and none of {', '.join(LABELS)} and "
                f"{DEVKIT} is there to say their classes; put one beside them or give --set labels=FILE"
            )
        return found


def _inside(files: Source, tar: str, scratch: Path, stack: ExitStack) -> Source:
    """One of the official tars if it is there, else the source itself."""
    name = next((name for name in files.names if PurePosixPath(name).name == tar), None)
    if name is None:
        return files
    if not files.path.is_dir():
        raise DataError(f"{files.path}: holds {name}, an archive of its own; unpack the outer one and give its folder")
    return stack.enter_context(Source(files.path / name, scratch))


def _wnid(name: str) -> str | None:
    """Class in the name of a training picture."""
    key = number(name, listed=False)
    return key[0] if key else None


def _folder(name: str) -> str | None:
    return next((part for part in reversed(PurePosixPath(name).parts[:-1]) if _WNID.fullmatch(part)), None)


def _written(files: Source) -> tuple[str, dict[int, str]] | None:
    """As `_labels`, from the first known file of labels; None when there is none."""
    at = {PurePosixPath(name).name: name for name in reversed(files.names)}
    name = next((at[known] for known in LABELS if known in at), None)
    if name is None:
        return None
    meta = PurePosixPath(name).with_name(_META).as_posix()
    kit = PurePosixPath(name).name == _TRUTH and meta in files.names
    numbered = _synsets(files.read(meta), f"{files.path}/{meta}") if kit else {}
    where = f"{files.path}/{name}"
    return where, _parse(files.read(name), where, numbered)


def _synsets(data: bytes, where: Path | str) -> dict[int, str]:
    """The development kit's numbers of classes."""
    if len(data) > MAX_META:
        raise DataError(f"{where}: has {len(data):,} bytes, the development kit's less than {MAX_META:,}; get it again")
    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    except Exception as fault:  # what SciPy raises on a damaged file is not written down
        raise DataError(f"{where}: is not the development kit's list of classes ({fault!r}); get it again") from fault


def _parse(data: bytes, where: Path | str, numbered: dict[int, str]) -> dict[int, str]:
    """The class of each validation picture of a text; `numbered` are classes by the kit's numbers."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as fault:
        raise DataError(f"{where}: is not a text of labels ({fault.reason}); get it again") from fault
    out: dict[int, str] = {}
    for at, line in enumerate(lines, 1):
        words = re.split(r"[\s,]+", line.strip())
        if words == [""] or (at == 1 and words[0] == "ImageId"):
            continue
        named = _VAL.fullmatch(PurePosixPath(words[0]).stem)
        key, cls = (int(named[1]), words[1] if len(words) > 1 else "") if named else (len(out) + 1, words[0])
        if not named and cls.isdecimal():
            if not numbered:
                raise DataError(
                    f"{where}:{at}: {cls} is a number that {_META} of {DEVKIT} explains; put that beside it"
                )
            cls = numbered.get(int(cls), cls)
        if not _WNID.fullmatch(cls) or (not named and len(words) > 1):
            raise DataError(
                f"{where}:{at}: {line.strip()[:60]!r} is neither a class such as n01751748 nor a validation "
                "picture's name and its class; get the right labels"
            )
        if key in out:
            raise DataError(f"{where}:{at}: validation picture {key} has a class already; get the right labels")
        out[key] = cls
    return out
