"""A user's own images, read file by file: they serve like a split of a store, without the store."""

import hashlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from fewshot_cli.config.schema import ImageSpec
from fewshot_cli.data.archive import Source, Stream
from fewshot_cli.data.arrange import arrange
from fewshot_cli.data.bad import BadImage, BadImages
from fewshot_cli.data.decode import Reading, cut_out, decode_image, in_threads, open_image, read_image, shrunk
from fewshot_cli.data.kinds import HEAD, left_out
from fewshot_cli.data.listed import from_csv
from fewshot_cli.data.store import BoxesOf, Split
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
        self._how = Reading.of(spec, upright=True)
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
        def digest(i: int) -> str:
            with self._open(i) as file, guarded(self.paths[i]):
                return hashlib.file_digest(file, "sha256").hexdigest()

        self._digests += in_threads(digest, range(len(self)))

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
        how = replace(self._how, enough=2 * side)
        out, sizes = torch.empty(len(picks), 3, side, side, dtype=torch.uint8), torch.empty(len(picks), 2)

        def decode_one(place: int) -> None:
            out[place], sizes[place] = decode_image(self._read(picks[place]), self.paths[picks[place]], side, how)

        with self._all_bad():
            for done, _ in enumerate(in_threads(decode_one, range(len(picks))), 1):
                if tick:
                    tick(done)
        return out, sizes

    def viewed(self, i: int, most: int, crop: str = "box") -> tuple[Tensor, Tensor]:
        """As `ImageSet.viewed`; files have no boxes, so `crop` changes nothing. Raises `BadImages` with all of them."""
        with self._all_bad():
            image, (width, height) = read_image(self._read(i), self.paths[i], replace(self._how, enough=most))
        return shrunk(image, most), torch.tensor([height, width])

    def patches(self, picks: Sequence[int], boxes: BoxesOf, side: int, crop: str = "box") -> Tensor:
        """As `ImageSet.patches`. Raises `BadImages` with all of them."""

        def cut_one(i: int) -> Tensor:
            image = open_image(self._read(i), self.paths[i], self._how)
            return cut_out(image, *boxes(i, image.width, image.height), side, self._how)

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
    """`<path>/<class>/<image>`, an archive of that, or a CSV of file,label: `classes`, `labels` [N], `names` [N] and
    images on demand.

    `option` is the command's option that names the path. The hash covers the files and the classes. Raises `DataError`
    when there are no class folders with images, or one has none but bad ones, and as `arrange` and `from_csv` do.
    """

    def __init__(self, path: Path, option: str, spec: ImageSpec, how: Taking = TAKING) -> None:
        super().__init__(spec)
        self.store, self.split = path.name, "images"
        listed = path.suffix.lower() in (".csv", ".tsv") and path.is_file()
        labelled = self._listed(path) if listed else self._arranged(path, option, how)
        self.names = [name for name, _ in labelled]
        self.paths = [f"{path.parent if listed else path}/{name}" for name in self.names]
        self._digest()
        if how.skip_bad:
            kept = self._without_bad()
            labelled = [labelled[i] for i in kept]
            self.names, self.paths, self._digests = (
                [column[i] for i in kept] for column in (self.names, self.paths, self._digests)
            )
        counts = Counter(cls for _, cls in labelled)
        if empty := next((cls for cls in self.classes if not counts[cls]), None):
            raise DataError(f"{path}: class {empty} has no image that can be used; replace them, or move it away")
        number = {cls: i for i, cls in enumerate(self.classes)}
        self.labels = torch.tensor([number[cls] for _, cls in labelled])
        self._counts = repr([(cls, counts[cls]) for cls in self.classes]).encode()

    @property
    def sha256(self) -> str:
        """The hash of the files and, before them, of the classes."""
        return hashlib.sha256(self._counts + b"".join(map(bytes.fromhex, self._digests))).hexdigest()

    def _arranged(self, path: Path, option: str, how: Taking) -> list[tuple[str, str]]:
        """Names and classes of a folder's or an archive's images."""
        source = Source(path, path.parent, option)
        weakref.finalize(self, source.close)
        self._stream: Callable[[str], Stream] = source.open
        names, skipped = images_of(source)
        made = arrange(names, str(path), how.level)
        self._tell({**source.skipped, **skipped, **made.skipped}, str(path))
        if not made.classes:
            raise DataError(f"{path}: holds no images in class folders; put them in {path}/<class>/<image>")
        self.classes = list(made.classes)
        return [(name, cls) for cls, group in made.classes.items() for name in group]

    def _listed(self, path: Path) -> list[tuple[str, str]]:
        """The same of a CSV's."""
        self._stream = lambda name: _opened(path.parent / name)
        table = from_csv(path)
        self.classes = sorted(table)
        return [(name, cls) for cls in self.classes for name in table[cls][0]]

    def _open(self, i: int) -> Stream:
        return self._stream(self.names[i])


LabelledSet = Folder | Split  # images with their classes: a user's own, or of a prepared dataset


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
            yield self.only(range(start, min(start + count, len(self))))

    def only(self, picks: Sequence[int]) -> Self:
        """Some of its images, in this order."""
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.names = part.paths = [self.paths[i] for i in picks]
        part._digests = [self._digests[i] for i in picks]
        return part

    def _open(self, i: int) -> Stream:
        return _opened(Path(self.paths[i]))


@contextmanager
def all_bad_of(*sets: _Files | Split | None) -> Iterator[None]:
    """Where an image of one set turns out to be bad, name the bad ones of all of them that are a user's files."""
    try:
        yield
    except BadImages as error:
        raise BadImages([bad for images in _own(sets) for bad in images.bad()]) from error


def omissions(*sets: _Files | Split | None) -> dict[str, Any]:
    """What a result says of a user's files that are not in it: their number by reason, and images that were bad."""
    skipped: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    for images in _own(sets):
        skipped.update(images.skipped)
        unreadable |= images.unreadable
    return {"skipped": dict(skipped), "unreadable": unreadable}


def _own(sets: Iterable[_Files | Split | None]) -> list[_Files]:
    """Those of the sets that are a user's files, each once: a store's images are neither skipped nor bad."""
    return list(dict.fromkeys(images for images in sets if isinstance(images, _Files)))


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


def _opened(path: Path) -> Stream:
    with guarded(path):
        return regular(path).open("rb")


def _head(path: Path) -> bytes:
    with guarded(path), path.open("rb") as file:
        return file.read(HEAD)
