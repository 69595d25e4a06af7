"""Writing a packed store: images arrive split by split and become a folder in one rename."""

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fewshot_cli.config.schema import MAX_PIXELS
from fewshot_cli.data.bad import BadImage, BadImages
from fewshot_cli.data.decode import Reading, measure
from fewshot_cli.data.format import (
    ENCODED,
    FEATURES,
    FORMAT,
    IMAGES,
    INDEX,
    RAW,
    Columns,
    hashed_columns,
    is_store,
    write_index,
)
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import guarded, scratch

if TYPE_CHECKING:
    from hashlib import _Hash


class StoreWriter:
    """Collects images, split by split, and turns them into a store in one rename.

    Use as a context manager; without `finish` nothing remains. Raises `DataError` when the disk refuses. What its
    attributes are says `ImageSink`.
    """

    def __init__(self, root: Path, name: str, info: dict[str, Any]) -> None:
        self.target, self.info, self.where = root / name, info, ""
        self.skipped: dict[str, list[str]] = {}
        self.max_pixels, self.skip_bad = MAX_PIXELS, False
        self._bad: list[BadImage] = []
        self._bad_in: Counter[str] = Counter()
        self._splits: dict[str, Columns] = {}
        self._digests: dict[str, _Hash] = {}
        self._copies: dict[bytes, list[tuple[str, str]]] = {}  # split and name of every image with this SHA-256
        self._offset = 0
        if self.target.exists() and not is_store(self.target):
            raise DataError(
                f"{self.target}: is not a store and will not be replaced; choose another --name or --data-root"
            )
        self._kept = ExitStack()

    def __enter__(self) -> Self:
        self._folder = self._kept.enter_context(scratch(self.target))
        try:
            with guarded(self.target):
                self._file = (self._folder / IMAGES).open("wb")
        except DataError:
            self._kept.close()
            raise
        self._kept.callback(self._close)
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def _close(self) -> None:
        with suppress(OSError):  # what is still buffered, a full disk refuses once more
            self._file.close()

    def add(
        self, split: str, cls: str, image: bytes | np.ndarray, name: str, box: tuple[int, ...] | None = None
    ) -> None:
        """Add one image: encoded bytes, uint8 pixels [H,W,3], or float32 features [d,h,w]. Splits and classes arrive
        one after the other.

        `box` is (left, top, right, bottom) in pixels; `name` identifies the image in messages. One that does not decode
        is remembered for `finish`.
        """
        if isinstance(image, np.ndarray) and image.dtype == np.float32:
            data, shape, encoding = np.ascontiguousarray(image).tobytes(), list(image.shape[1:]), FEATURES
        elif isinstance(image, np.ndarray):
            data, shape, encoding = np.ascontiguousarray(image, np.uint8).tobytes(), list(image.shape[:2]), RAW
        else:
            how = Reading(max_pixels=self.max_pixels, option="--set max_pixels")
            try:
                data, shape, encoding = image, list(measure(image, f"{self.where}{name}", how)), ENCODED
            except BadImage as error:
                self._bad.append(error)
                self._bad_in[split] += 1
                return
        columns = self._columns(split, cls)
        if self.info.setdefault("encoding", encoding) != encoding:
            raise ValueError("raw and encoded images and features do not mix in one store")
        with guarded(self.target):
            self._file.write(data)
        columns.label.append(len(columns.classes) - 1)
        columns.size.append(len(data))
        columns.shape.append(shape)
        columns.box.append(list(box) if box else None)
        columns.name.append(name)
        self._offset += len(data)
        self._digests[split].update(data)
        self._copies.setdefault(hashlib.sha256(data).digest(), []).append((split, f"{cls}/{name}"))

    def count(self, split: str) -> int:
        """How many images of a split were added so far, those that do not decode among them."""
        return (len(self._splits[split].label) if split in self._splits else 0) + self._bad_in[split]

    def longest_side(self) -> int:
        """The longest side of all images added so far, in pixels; 0 when there are none."""
        return max((max(shape) for columns in self._splits.values() for shape in columns.shape), default=0)

    def finish(self, known: str | None = None) -> dict[str, Any]:
        """Write the index, sync and rename; returns the report of `fsl prepare`. Raises `DataError` when empty, and
        `BadImages` for all that did not decode, unless they are to be skipped.

        `known` is the SHA-256 of the store made from the complete public data.
        """
        if self._bad and not self.skip_bad:
            raise BadImages(self._bad)
        if not self._splits:
            raise DataError(f"{self.target.name}: no images were found; check --from")
        for split, columns in self._splits.items():
            self._digests[split].update(hashed_columns(vars(columns)))
            columns.sha256 = self._digests[split].hexdigest()
            columns.columns_sha256 = hashlib.sha256(hashed_columns(vars(columns))).hexdigest()
        report = self._report()
        report["complete_public_data"] = None if known is None else report["sha256"] == known
        index = {
            "format": FORMAT,
            **self.info,
            "bytes": self._offset,
            "sha256": report["sha256"],
            "report": report,
            "splits": {split: vars(columns) for split, columns in self._splits.items()},
        }
        with guarded(self.target):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            write_index(self._folder / INDEX, index)
            self._replace_target()
        return report

    def _columns(self, split: str, cls: str) -> Columns:
        """The columns of a split whose last class is `cls`, both opened if they are new."""
        if split not in self._splits:
            self._splits[split], self._digests[split] = Columns(offset=self._offset), hashlib.sha256()
        elif split != next(reversed(self._splits)):
            raise ValueError(f"split {split} was already closed")
        columns = self._splits[split]
        if not columns.classes or columns.classes[-1] != cls:
            if cls in columns.classes:
                raise ValueError(f"class {cls} was already closed")
            columns.classes.append(cls)
        return columns

    def _replace_target(self) -> None:
        """Rename the finished folder to the target; a store that is there already is put back if that fails."""
        old = None
        if self.target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.old.", dir=self.target.parent))
            self.target.rename(old / "store")
        try:
            self._folder.rename(self.target)
        except OSError:
            if old:
                (old / "store").rename(self.target)
                old.rmdir()
            raise
        if old:
            shutil.rmtree(old, ignore_errors=True)

    def _report(self) -> dict[str, Any]:
        duplicates = [places for places in self._copies.values() if len(places) > 1]
        across = [places for places in duplicates if len({split for split, _ in places}) > 1]
        rows = {}
        for split, columns in self._splits.items():
            counts = Counter(columns.label)
            sides = np.array(columns.shape).reshape(-1, 2)
            rows[split] = {
                "classes": len(columns.classes),
                "images": len(columns.label),
                "smallest_class": min(counts.values()),
                "largest_class": max(counts.values()),
                "min_side": sides.min(0).tolist(),
                "max_side": sides.max(0).tolist(),
                "sha256": columns.sha256,
            }
        names = [set(columns.classes) for columns in self._splits.values()]
        shared: set[str] = set().union(*(a & b for i, a in enumerate(names) for b in names[i + 1 :]))
        return {
            "splits": rows,
            "skipped": {reason: len(names) for reason, names in self.skipped.items()},
            "unreadable": {bad.name: bad.reason for bad in self._bad},
            "duplicates": sum(len(places) - 1 for places in duplicates),
            "duplicates_across_splits": sum(len(places) - 1 for places in across),
            "example_duplicates": [[f"{s}/{n}" for s, n in places] for places in (across or duplicates)[:3]],
            "classes_in_several_splits": sorted(shared),
            "megabytes": round(self._offset / 1e6, 1),
            "sha256": hashlib.sha256("".join(c.sha256 for c in self._splits.values()).encode()).hexdigest(),
        }
