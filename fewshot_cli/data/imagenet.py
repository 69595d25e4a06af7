"""ImageNet's training pictures by class, however packed: what miniImageNet and tieredImageNet are cut from.

Three wrappings are read: class folders (`n01532829/n01532829_5.JPEG`), class tars (`n01532829.tar`) in a folder, and a
tar or zip of either, such as the official ILSVRC2012_img_train.tar, which holds 1,000 class tars.
"""

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fewshot_cli.data.archive import Source
from fewshot_cli.data.layouts import PICTURES
from fewshot_cli.data.store import StoreWriter
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import guarded

LICENCE = "ImageNet's terms of access: non-commercial research and education; the pictures keep their owners' rights"
SMALL = 84  # side of the copies that most few-shot code trains on
_WNID = re.compile(r"n\d{8}")
_NAME = re.compile(r"(n\d{8})(?:_(\d+)|(\d{8}))")  # ImageNet's n01532829_5, the file lists' n0153282900000005


def number(name: str, listed: bool) -> tuple[str, int] | None:
    """Class and number in a picture's file name, of the lists' form (`listed`) or of ImageNet's; None for any other."""
    pure = PurePosixPath(name)
    found = _NAME.fullmatch(pure.stem) if pure.suffix.lower() in PICTURES else None
    digits = found and found[3 if listed else 2]
    return (found[1], int(digits)) if digits else None


class ClassFolders:
    """Pictures by class of the files of a `Source`. `wnid in folders` says whether a class is there."""

    def __init__(self, files: Source, scratch: Path) -> None:
        self._files, self._scratch = files, scratch
        self._tars: dict[str, str] = {}
        self._folders: dict[str, list[str]] = defaultdict(list)
        for name in files.names:
            pure = PurePosixPath(name)
            if pure.suffix.lower() == ".tar" and _WNID.fullmatch(pure.stem):
                self._tars[pure.stem] = name
            elif wnid := _class_of(pure):
                self._folders[wnid].append(name)

    def __contains__(self, wnid: str) -> bool:
        return wnid in self._folders or wnid in self._tars

    @contextmanager
    def opened(self, wnid: str) -> Iterator[tuple[Source, list[str]]]:
        """The source to read a class's pictures from, and their names in the order of their numbers."""
        if wnid in self._folders:
            yield self._files, _in_order(self._files.path, wnid, self._folders[wnid])
        else:
            with self._unwrapped(self._tars[wnid]) as path, Source(path, self._scratch) as inner:
                yield inner, _in_order(path, wnid, [n for n in inner.names if _is_picture(PurePosixPath(n))])

    @contextmanager
    def _unwrapped(self, name: str) -> Iterator[Path]:
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
            except DataError as fault:  # the copy will be gone when the user looks for it
                raise DataError(str(fault).replace(str(path), f"{self._files.path}/{name}")) from fault


def _is_picture(pure: PurePosixPath) -> bool:
    # ImageNet's validation pictures lie in class folders too where both halves are unpacked side by side
    return pure.suffix.lower() in PICTURES and not pure.stem.startswith(("ILSVRC2012_val", "ILSVRC2012_test"))


def _class_of(pure: PurePosixPath) -> str | None:
    if not _is_picture(pure):
        return None
    if found := _NAME.fullmatch(pure.stem):
        return found[1]
    return next((part for part in reversed(pure.parts[:-1]) if _WNID.fullmatch(part)), None)


def _in_order(path: Path, wnid: str, names: list[str]) -> list[str]:
    """A class's pictures by number; where ImageNet's own names are among them, those only."""
    keys = {name: number(name, listed=False) or number(name, listed=True) for name in names}
    if originals := [n for n in names if number(n, listed=False)]:
        names = originals
    names = sorted(names, key=lambda n: (keys[n] or ("", -1), n))
    for one, other in zip(names, names[1:], strict=False):
        if keys[one] and keys[one] == keys[other]:
            raise DataError(
                f"{path}: has a picture of class {wnid} twice ({one}, {other}); give --from one of the folders"
            )
    return names


def holder(path: Path) -> Path:
    """A folder that holds just one archive stands for the archive."""
    if path.is_dir() and not any(p.is_dir() for p in path.iterdir()):
        packed = [p for p in path.iterdir() if p.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".zip"))]
        if len(packed) == 1:
            return packed[0]
    return path


def absent(path: Path, dataset: str, missing: list[str], total: int, source: str) -> DataError:
    """The sentence for classes that a source lacks."""
    if len(missing) == total:
        return DataError(f"{path}: holds no picture of {dataset}'s {total} classes; --from takes {source}")
    named = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return DataError(f"{path}: lacks {len(missing)} of {dataset}'s {total} classes ({named}); --from takes {source}")


def warn_if_small(writer: StoreWriter, wanted: str) -> None:
    """Say on stderr when no picture is larger than the usual copies: the published figures were not made from those."""
    side = max(max(shape) for part in writer.parts.values() for shape in part.shape)
    if side <= SMALL:
        say(
            f"warning: no picture is larger than {side} px; DeepEMD's published figures need {wanted}, "
            "and 84×84 copies do not reach them"
        )
