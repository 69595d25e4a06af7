"""A user's own images, read file by file: they serve like a split of a store, without the store."""

import hashlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from fewshot_cli.config.schema import ImageSpec
from fewshot_cli.data.archive import Source, Stream
from fewshot_cli.data.arrange import arrange
from fewshot_cli.data.bad import BadImage, BadImages
from fewshot_cli.data.decode import Reading, cut_out, decode_image, in_threads, open_image
from fewshot_cli.data.kinds import HEAD, left_out
from fewshot_cli.data.store import BoxesOf
from fewshot_cli.data.walk import told
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import guarded, regular
from fewshot_cli.runtime.shown import shown


@dataclass(frozen=True)
class Taking:
    """How a user's folders are taken: which folders are the classes where that is not plain (1: the first below it),
    and whether images that cannot be used are left out.
    """

    level: int | None = None
    skip_bad: bool = False


TAKING = Taking()


class _Files:
    """Image files, an `ImageSet`: `names` [N] for results, `paths` [N] for messages; opened when they are wanted.

    The hash covers the files. `skipped` has the number of files left out for each reason, `unreadable` why images
    cannot be used, by path: with `skip_bad` these are left out.
    """

    store, split = "images", "files"

    def __init__(self, spec: ImageSpec) -> None:
        self._how = Reading(True, spec.behind, spec.max_pixels)
        self.names: list[str] = []
        self.paths: list[str] = []
        self._digests: list[str] = []
        self.skipped: dict[str, int] = {}
        self.unreadable: dict[str, str] = {}

    def _open(self, i: int) -> Stream:
        """Image i as a stream."""
        raise NotImplementedError

    def _tell(self, skipped: dict[str, list[str]], where: str) -> None:
        if skipped:
            say(told(skipped, where))
        for reason, names in skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + len(names)

    def _digest(self) -> None:
        for i in range(len(self)):
            with self._open(i) as file, guarded(self.paths[i]):
                self._digests.append(hashlib.file_digest(file, "sha256").hexdigest())

    @property
    def sha256(self) -> str:
        """The hash of all files."""
        return hashlib.sha256(b"".join(map(bytes.fromhex, self._digests))).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def identities(self) -> list[str]:
        """As `ImageSet.identities`: hashes of the files."""
        return self._digests

    def decode(
        self, side: int, crop: str = "box", tick: Callable[[int], None] | None = None, only: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `ImageSet.decode`; files have no boxes, so `crop` changes nothing. Raises `BadImages` with all of them."""
        picks = range(len(self)) if only is None else only
        out, sizes = torch.empty(len(picks), 3, side, side, dtype=torch.uint8), torch.empty(len(picks), 2)

        def decode_one(place: int) -> None:
            out[place], sizes[place] = decode_image(self._read(picks[place]), self.paths[picks[place]], side, self._how)

        with self._all_bad():
            for done, _ in enumerate(in_threads(decode_one, range(len(picks))), 1):
                if tick:
                    tick(done)
        return out, sizes

    def patches(self, picks: Sequence[int], boxes: BoxesOf, side: int, crop: str = "box") -> Tensor:
        """As `ImageSet.patches`. Raises `BadImages` with all of them."""

        def cut_one(i: int) -> Tensor:
            image = open_image(self._read(i), self.paths[i], self._how)
            return cut_out(image, *boxes(i, image.width, image.height), side)

        with self._all_bad():
            return torch.stack(list(in_threads(cut_one, picks)))

    def bad(self) -> list[BadImage]:
        """All images of the set that cannot be used."""

        def tried(i: int) -> BadImage | None:
            try:
                open_image(self._read(i), self.paths[i], self._how)
            except BadImage as error:
                return error
            return None

        return [error for error in in_threads(tried, range(len(self))) if error is not None]

    @contextmanager
    def _all_bad(self) -> Iterator[None]:
        """Where one image turns out to be bad, look at all of them, and name all that are."""
        try:
            yield
        except BadImage as error:
            raise BadImages(self.bad()) from error

    def _read(self, i: int) -> bytes:
        with self._open(i) as file, guarded(self.paths[i]):
            data = file.read()
        if hashlib.sha256(data).hexdigest() != self._digests[i]:
            raise DataError(f"{self.paths[i]}: was changed while it was used; run the command again")
        return data

    def _without_bad(self) -> list[int]:
        """The images that can be used, after the others have been told."""
        bad = self.bad()
        self.unreadable = {one.name: one.reason for one in bad}
        if bad:
            first = "; ".join(f"{shown(one.name)} ({one.reason})" for one in bad[: BadImages.SHOWN])
            more = f"; and {len(bad) - BadImages.SHOWN} more" if len(bad) > BadImages.SHOWN else ""
            say(f"note: left out {len(bad)} images that cannot be used: {first}{more}")
        return [i for i, path in enumerate(self.paths) if path not in self.unreadable]


class Folder(_Files):
    """`<path>/<class>/<image>`, or an archive of that: `classes`, `labels` [N], `names` [N] and images on demand.

    `option` is the command's option that names the path. The hash covers the files and the classes. Raises `DataError`
    when there are no class folders with images, or one has none but bad ones, and as `arrange` does.
    """

    def __init__(self, path: Path, option: str, spec: ImageSpec, how: Taking = TAKING) -> None:
        super().__init__(spec)
        self.store, self.split, self._source = path.name, "images", Source(path, path.parent, option)
        weakref.finalize(self, self._source.close)
        names, skipped = images_of(self._source)
        made = arrange(names, str(path), how.level)
        skipped = {**self._source.skipped, **skipped, **made.skipped}
        self._tell(skipped, str(path))
        if not made.classes:
            raise DataError(f"{path}: holds no images in class folders; put them in {path}/<class>/<image>")
        labelled = [(name, cls) for cls, group in made.classes.items() for name in group]
        self.names = [name for name, _ in labelled]
        self.paths = [f"{path}/{name}" for name in self.names]
        self._digest()
        if how.skip_bad:
            kept = self._without_bad()
            labelled = [labelled[i] for i in kept]
            self.names, self.paths, self._digests = (
                [column[i] for i in kept] for column in (self.names, self.paths, self._digests)
            )
        self.classes, counts = list(made.classes), Counter(cls for _, cls in labelled)
        if empty := next((cls for cls in self.classes if not counts[cls]), None):
            raise DataError(f"{path}: class {empty} has no image that can be used; replace them, or move it away")
        number = {cls: i for i, cls in enumerate(self.classes)}
        self.labels = torch.tensor([number[cls] for _, cls in labelled])
        self._counts = repr([(cls, counts[cls]) for cls in self.classes]).encode()

    @property
    def sha256(self) -> str:
        """The hash of the files and, before them, of the classes."""
        return hashlib.sha256(self._counts + b"".join(map(bytes.fromhex, self._digests))).hexdigest()

    def _open(self, i: int) -> Stream:
        return self._source.open(self.names[i])


class LooseImages(_Files):
    """Image files, and those of all folders below the paths given: `names` [N] and images on demand.

    Raises `DataError` for a path that does not exist and for a folder without images.
    """

    def __init__(self, paths: list[Path], spec: ImageSpec, how: Taking = TAKING) -> None:
        super().__init__(spec)
        self.names = self.paths = [name for path in paths for name in self._images_below(path)]
        self._digest()
        if how.skip_bad:
            kept = self._without_bad()
            self.names = self.paths = [self.paths[i] for i in kept]
            self._digests = [self._digests[i] for i in kept]
            if not kept:
                raise DataError(f"{', '.join(map(str, paths[:3]))}: no image can be used; give others")

    def _images_below(self, path: Path) -> list[str]:
        """The file itself, whatever it is called, or the images of a folder and all below it."""
        if not regular(path).is_dir():
            if not path.is_file():
                raise DataError(f"{path}: no such file or folder; give images or folders of images")
            reason = left_out(path.name, _head(path))
            if reason not in (None, "not an image"):  # what decodes it says the latter best
                raise DataError(f"{path}: is {reason}")
            return [str(path)]
        with Source(path, path) as files:
            kept, others = images_of(files)
        self._tell({**files.skipped, **others}, str(path))
        if not kept:
            raise DataError(f"{path}: holds no images")
        return [str(path / name) for name in kept]

    def parts(self, count: int) -> Iterator[Self]:
        """The set in parts of `count` images, the last of fewer."""
        for start in range(0, len(self), count):
            part = object.__new__(type(self))
            part.__dict__.update(self.__dict__)
            part.names = part.paths = self.paths[start : start + count]
            part._digests = self._digests[start : start + count]
            yield part

    def _open(self, i: int) -> Stream:
        with guarded(self.paths[i]):
            return regular(Path(self.paths[i])).open("rb")


@contextmanager
def all_bad_of(*sets: _Files) -> Iterator[None]:
    """Where an image of one set turns out to be bad, name the bad ones of all of them."""
    try:
        yield
    except BadImages as error:
        raise BadImages([bad for images in dict.fromkeys(sets) for bad in images.bad()]) from error


def omissions(*sets: _Files) -> dict[str, Any]:
    """What a result says of files that are not in it: their number for each reason, and images that were bad."""
    skipped: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    for images in dict.fromkeys(sets):
        skipped.update(images.skipped)
        unreadable |= images.unreadable
    return {"skipped": dict(skipped), "unreadable": unreadable}


def images_of(files: Source) -> tuple[list[str], dict[str, list[str]]]:
    """The images of a folder or archive, and its other files by the reason for which they are none."""
    kept: list[str] = []
    others: dict[str, list[str]] = {}
    for name in files.names:
        if (reason := left_out(name, files.head(name))) is None:
            kept.append(name)
        else:
            others.setdefault(reason, []).append(name)
    return kept, others


def _head(path: Path) -> bytes:
    with guarded(path), path.open("rb") as file:
        return file.read(HEAD)
