"""ImageNet's training images by class, however packed: the source of miniImageNet and tieredImageNet.

Three layouts are read: class folders (`n01532829/n01532829_5.JPEG`), class tars (`n01532829.tar`) in a folder, and a
tar or zip of either, such as the official ILSVRC2012_img_train.tar, which holds 1,000 class tars.
"""

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fewshot_cli.data.archive import Source
from fewshot_cli.data.kinds import is_image
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import guarded

LICENCE = "ImageNet's terms of access: non-commercial research and education; the images keep their owners' rights"
COLLECTIONS = ("imagenet-1k", "imagenet-12k", "imagenet-21k", "lvd-142m")  # that hold its classes
SMALL = 84  # side in pixels of the copies that most few-shot code trains on
WNID = re.compile(r"n\d{8}")
_NAME = re.compile(r"(?P<wnid>n\d{8})(?:_(?P<own>\d+)|(?P<listed>\d{8}))")


def number(name: str, listed: bool) -> tuple[str, int] | None:
    """Class and number in an image's file name; None for a name of another form.

    The form is ImageNet's own, n01532829_5, or that of the published file lists, n0153282900000005 (`listed`).
    """
    pure = PurePosixPath(name)
    match = _NAME.fullmatch(pure.stem)
    if match is None or not is_image(pure):
        return None
    digits = match["listed" if listed else "own"]
    return (match["wnid"], int(digits)) if digits else None


def class_folder(name: str) -> str | None:
    """The innermost folder of a name that is called like a class."""
    return next((part for part in reversed(PurePosixPath(name).parts[:-1]) if WNID.fullmatch(part)), None)


class ClassFolders:
    """Images by class of the files of a `Source`. `wnid in folders` says whether a class is there."""

    def __init__(self, files: Source, scratch: Path) -> None:
        self._files, self._scratch = files, scratch
        self._tars: dict[str, str] = {}
        self._folders: dict[str, list[str]] = defaultdict(list)
        for name in files.names:
            pure = PurePosixPath(name)
            if pure.suffix.lower() == ".tar" and WNID.fullmatch(pure.stem):
                self._tars[pure.stem] = name
            elif wnid := _class_of(name):
                self._folders[wnid].append(name)

    def __contains__(self, wnid: str) -> bool:
        return wnid in self._folders or wnid in self._tars

    @contextmanager
    def opened(self, wnid: str) -> Iterator[tuple[Source, list[str]]]:
        """The source to read a class's images from, and their names in the order of their numbers."""
        if wnid in self._folders:
            yield self._files, _in_order(self._files.path, wnid, self._folders[wnid])
        else:
            with self._extracted(self._tars[wnid]) as path, Source(path, self._scratch) as inner:
                yield inner, _in_order(path, wnid, [name for name in inner.names if _is_training_image(name)])

    @contextmanager
    def _extracted(self, name: str) -> Iterator[Path]:
        """A class tar as a file of its own; one that is inside an archive is copied out while it is read."""
        if self._files.path.is_dir():
            yield self._files.path / name
            return
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix=".classes.") as folder:
            path = Path(folder) / PurePosixPath(name).name
            with guarded(self._scratch):
                path.write_bytes(self._files.read(name))
            try:
                yield path
            except DataError as error:  # the copy will be gone when the user looks for it
                raise DataError(str(error).replace(str(path), f"{self._files.path}/{name}")) from error


def _is_training_image(name: str) -> bool:
    # ImageNet's validation images lie in class folders too where both halves are unpacked side by side
    return is_image(name) and not PurePosixPath(name).stem.startswith(("ILSVRC2012_val", "ILSVRC2012_test"))


def _class_of(name: str) -> str | None:
    if not _is_training_image(name):
        return None
    match = _NAME.fullmatch(PurePosixPath(name).stem)
    return match["wnid"] if match else class_folder(name)


def _in_order(path: Path, wnid: str, names: list[str]) -> list[str]:
    """A class's images by number; where ImageNet's own names are among them, those only."""
    keys = {name: number(name, listed=False) or number(name, listed=True) for name in names}
    if originals := [n for n in names if number(n, listed=False)]:
        names = originals
    names = sorted(names, key=lambda n: (keys[n] or ("", -1), n))
    for one, other in zip(names, names[1:], strict=False):
        if keys[one] and keys[one] == keys[other]:
            raise DataError(
                f"{path}: has an image of class {wnid} twice ({one}, {other}); give --from one of the folders"
            )
    return names


def absent(path: Path, dataset: str, missing: list[str], total: int, source: str) -> DataError:
    """The error for classes that a source lacks."""
    if len(missing) == total:
        return DataError(f"{path}: holds no image of {dataset}'s {total} classes; --from takes {source}")
    named = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return DataError(f"{path}: lacks {len(missing)} of {dataset}'s {total} classes ({named}); --from takes {source}")


def warn_if_small(longest_side: int, needed: str) -> None:
    """Say on stderr when no image is larger than the usual copies, which do not reach the published figures."""
    if longest_side <= SMALL:
        say(
            f"warning: no image is larger than {longest_side} px; DeepEMD's published figures need {needed}, "
            "and 84×84 copies do not reach them"
        )
