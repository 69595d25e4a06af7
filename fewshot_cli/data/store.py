"""The packed store: every picture of a dataset in one file, and an index that says what it is.

`<data root>/<name>/images.bin` holds the encoded pictures, one split after the other; `index.json` holds class names,
labels, offsets, shapes, boxes, checksums and the format version. The folder appears by one rename when it is whole.
"""

import hashlib
import io
import json
import mmap
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import guarded

FORMAT = 1
SPLITS = ("train", "val", "test")
MAX_PIXELS = 64_000_000  # beyond this a picture is taken for a decompression bomb
FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "WEBP",
    "GIF",
    "TIFF",
    "PPM",
)  # others of Pillow's run programs (EPS) or are never pictures
RAW = "raw"  # uint8 RGB pixels, row by row
ENCODED = "encoded"  # a picture file as its makers encoded it


@dataclass
class _Part:
    """Columns of one split, a row a picture."""

    classes: list[str] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    offset: int = 0  # of the first picture; the others follow without gaps
    size: list[int] = field(default_factory=list)
    shape: list[list[int]] = field(default_factory=list)
    box: list[list[int] | None] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    sha256: str = ""


def _is_ours(path: Path) -> bool:
    """Whether a folder is a store, whole or damaged, or empty: what `--force` may replace."""
    return path.is_dir() and (
        (path / "index.json").exists() or (path / "images.bin").exists() or not any(path.iterdir())
    )


class StoreWriter:
    """Collects pictures, split by split, and turns them into a store in one rename.

    Use as a context manager; without `finish` nothing remains. Raises `DataError` for undecodable pictures and a
    refusing disk.
    """

    def __init__(self, root: Path, name: str, info: dict[str, Any]) -> None:
        self.target, self.info = root / name, info
        self.parts: dict[str, _Part] = {}
        self._digests: dict[str, Any] = {}
        self._seen: dict[bytes, list[tuple[str, str]]] = {}
        self._at = 0
        if self.target.exists() and not _is_ours(self.target):
            raise DataError(
                f"{self.target}: is not a store and will not be replaced; choose another --name or --data-root"
            )
        with guarded(root):
            root.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=root))
            self._folder.chmod(0o755)
            self._file = (self._folder / "images.bin").open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # closing writes what is still buffered, which a full disk refuses once more
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(
        self,
        split: str,
        cls: str,
        picture: bytes | np.ndarray,
        name: str,
        box: tuple[int, ...] | None = None,
        check: bool = True,
    ) -> None:
        """Add one picture: encoded bytes, or uint8 pixels [H,W,3]. Splits and classes arrive one after the other.

        `box` is (left, top, right, bottom) in pixels; `name` identifies the picture in messages.
        """
        if split not in self.parts:
            self.parts[split], self._digests[split] = _Part(offset=self._at), hashlib.sha256()
        elif split != next(reversed(self.parts)):
            raise ValueError(f"split {split} was already closed")
        part = self.parts[split]
        if not part.classes or part.classes[-1] != cls:
            if cls in part.classes:
                raise ValueError(f"class {cls} was already closed")
            part.classes.append(cls)
        if isinstance(picture, np.ndarray):
            data, shape, kind = np.ascontiguousarray(picture, np.uint8).tobytes(), list(picture.shape[:2]), RAW
        else:
            data, kind = picture, ENCODED
            shape = list(measure(data, name)) if check else [0, 0]
        kind_so_far = self.info.setdefault("encoding", kind)
        if kind_so_far != kind:
            raise ValueError("raw and encoded pictures do not mix in one store")
        with guarded(self.target):
            self._file.write(data)
        part.label.append(len(part.classes) - 1)
        part.size.append(len(data))
        part.shape.append(shape)
        part.box.append(list(box) if box else None)
        part.name.append(name)
        self._at += len(data)
        self._digests[split].update(data)
        self._seen.setdefault(hashlib.sha256(data).digest(), []).append((split, f"{cls}/{name}"))

    def finish(self, known: str | None = None) -> dict[str, Any]:
        """Write the index, sync and rename; returns the report of `fsl prepare`. Raises `DataError` when empty.

        `known` is the hash that the complete public data gives.
        """
        if not self.parts:
            raise DataError(f"{self.target.name}: no pictures were found; check --from")
        for split, part in self.parts.items():
            self._digests[split].update(_columns(vars(part)))
            part.sha256 = self._digests[split].hexdigest()
        report = self._report()
        report["complete_public_data"] = None if known is None else report["sha256"] == known
        index = {
            "format": FORMAT,
            **self.info,
            "bytes": self._at,
            "sha256": report["sha256"],
            "report": report,
            "splits": {s: vars(p) for s, p in self.parts.items()},
        }
        with guarded(self.target):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            write_json_compact(self._folder / "index.json", index)
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
        return report

    def _report(self) -> dict[str, Any]:
        twins = [places for places in self._seen.values() if len(places) > 1]
        across = [places for places in twins if len({split for split, _ in places}) > 1]
        rows = {}
        for split, part in self.parts.items():
            counts = Counter(part.label)
            sides = np.array(part.shape).reshape(-1, 2)
            rows[split] = {
                "classes": len(part.classes),
                "images": len(part.label),
                "smallest_class": min(counts.values()),
                "largest_class": max(counts.values()),
                "min_side": sides.min(0).tolist(),
                "max_side": sides.max(0).tolist(),
                "sha256": part.sha256,
            }
        names = [set(p.classes) for p in self.parts.values()]
        shared = sorted(set.union(*(a & b for i, a in enumerate(names) for b in names[i + 1 :]), set()))
        return {
            "splits": rows,
            "duplicates": sum(len(places) - 1 for places in twins),
            "duplicates_across_splits": sum(len(places) - 1 for places in across),
            "example_duplicates": [[f"{s}/{n}" for s, n in places] for places in (across or twins)[:3]],
            "classes_in_several_splits": shared,
            "megabytes": round(self._at / 1e6, 1),
            "sha256": hashlib.sha256("".join(p.sha256 for p in self.parts.values()).encode()).hexdigest(),
        }


def _columns(part: dict[str, Any]) -> bytes:
    """What of a split's index decides its pictures; offsets follow from the sizes, and names are for messages."""
    return json.dumps({k: part[k] for k in ("classes", "label", "size", "shape", "box")}, sort_keys=True).encode()


def write_json_compact(path: Path, data: Any) -> None:
    """Write and sync an index (one line: it is for programs)."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(data, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())


def measure(data: bytes, name: str) -> tuple[int, int]:
    """Height and width of an encoded picture after decoding it fully. Raises `DataError` when it does not decode."""
    image = _open(data, name)
    return image.height, image.width


def decode_picture(data: bytes, name: str, side: int) -> tuple[Tensor, Tensor]:
    """One encoded picture squashed to uint8 [3,side,side], and its size before that [2] (h, w).

    Raises `DataError` when it does not decode.
    """
    return _squash(_open(data, name, upright=True), side)


def _squash(image: Image.Image, side: int) -> tuple[Tensor, Tensor]:
    size = torch.tensor([image.height, image.width])
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), size


def _open(data: bytes, name: str, upright: bool = False) -> Image.Image:
    """Decode a picture to RGB, turned as its camera says if `upright` (published figures ignore that)."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"{name}: {image.width}×{image.height} pixels are more than {MAX_PIXELS:,}; remove or shrink it"
            )
        if upright:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as fault:
        raise DataError(f"{name}: does not decode as a picture ({_why(fault)}); remove or replace it") from fault


class Pictured(Protocol):
    """Pictures that features can be taken of: a split of a store, or a user's own; `sha256` is that of them all."""

    store: str
    split: str
    sha256: str

    def __len__(self) -> int: ...

    def identities(self) -> list[str]:
        """What each picture is recognised by [N], whichever others there are."""

    def decode(
        self, side: int, crop: str = "box", tick: Callable[[int], None] | None = None, only: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pictures (all, or `only` these) squashed to uint8 [N,3,side,side], and their sizes before that [N,2] (h,
        w).
        """


@dataclass(frozen=True)
class Split:
    """One split of a store: `classes` names, `labels` [N], and its pictures on demand."""

    store: str
    split: str
    classes: list[str]
    labels: Tensor
    sha256: str
    _index: dict[str, Any]
    _file: Path
    _encoding: str
    _upright: bool = False

    def members(self) -> list[Tensor]:
        """Indices of each class's pictures, in the store's order."""
        return [torch.nonzero(self.labels == c).flatten() for c in range(len(self.classes))]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Each picture's name within its class [N]."""
        return self._index["name"]

    def identities(self) -> list[str]:
        """As `Pictured.identities`: the places in the split."""
        return [str(i) for i in range(len(self))]

    def decode(
        self,
        side: int,
        crop: str = "box",
        tick: Callable[[int], None] | None = None,
        only: list[int] | None = None,
        into: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pictures (all, or `only` these) squashed to uint8 [N,3,side,side], and their sizes before that [N,2] (h, w).

        They are written `into` a tensor if one is given. `crop` is `box` (to the bounding box where there is one) or
        `raw`. Raises `DataError` for a damaged store.
        """
        start, ends = self._index["offset"], list(accumulate(self._index["size"]))
        with guarded(self._file), self._file.open("rb") as file:  # mapped: a split may be larger than the memory
            blob = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[start : start + ends[-1]]
        self._verify(blob)
        picks = range(len(self)) if only is None else only
        sizes = torch.empty(len(picks), 2)
        out = torch.empty(len(picks), 3, side, side, dtype=torch.uint8) if into is None else into

        def one(place: int) -> None:
            i = picks[place]
            data, name = blob[ends[i] - self._index["size"][i] : ends[i]], self._index["name"][i]
            if self._encoding == RAW:
                h, w = self._index["shape"][i]
                image = Image.frombuffer("RGB", (w, h), data)
            else:
                image = _open(data, name, self._upright)
            box = self._index["box"][i] if crop == "box" else None
            out[place], sizes[place] = _squash(image.crop(tuple(box)) if box else image, side)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for i, _ in enumerate(pool.map(one, range(len(picks)))):
                if tick and i % 256 == 255:
                    tick(i + 1)
        return out, sizes

    def _verify(self, blob: memoryview) -> None:
        digest = hashlib.sha256(blob)
        digest.update(_columns(self._index))
        if digest.hexdigest() != self.sha256:
            raise DataError(
                f"{self._file}: the {self.split} pictures do not match the index's SHA-256, so the store is "
                f"damaged; run `fsl prepare {self.store} --force` again"
            )


def _why(fault: Exception) -> str:
    """Pillow's words, without the address of the buffer it was given."""
    return "no known format" if isinstance(fault, UnidentifiedImageError) else str(fault)


@dataclass(frozen=True)
class Store:
    """An opened store."""

    name: str
    path: Path
    index: dict[str, Any]

    def split(self, split: str) -> Split:
        """One split. Raises `DataError` when the dataset has no such split."""
        if split not in self.index["splits"]:
            have = ", ".join(self.index["splits"])
            raise DataError(f"{self.path}: has no {split} split (it has {have}); set eval.split to one of them")
        part = self.index["splits"][split]
        return Split(
            self.name,
            split,
            part["classes"],
            torch.tensor(part["label"], dtype=torch.int64),
            part["sha256"],
            part,
            self.path / "images.bin",
            self.index["encoding"],
            self.index.get("upright", False),
        )


def open_store(root: Path, name: str) -> Store:
    """Open `<root>/<name>`. Raises `DataError` when it is absent, half-written, damaged or of another format."""
    path = root / name
    again = f"run `fsl prepare {name} --force` again"
    if not path.exists():
        raise DataError(
            f"{path}: dataset {name} is not prepared; run `fsl prepare {name}` (see `fsl show dataset {name}`)"
        )
    if not _is_ours(path):
        raise DataError(f"{path}: is not a store; choose another --data-root, or another --name for `fsl prepare`")
    try:
        index = json.loads((path / "index.json").read_text("utf-8"))
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            found = index.get("format") if isinstance(index, dict) else None
            raise DataError(f"{path}: store format {found}, this version reads {FORMAT}; {again}")
        if not isinstance(index.get("splits"), dict):
            raise ValueError("its index has no splits")
        if "encoding" not in index:
            raise ValueError("its index has no encoding")
        size = (path / "images.bin").stat().st_size
    except (OSError, ValueError) as fault:
        raise DataError(f"{path}: is not a whole store ({fault}); {again}") from fault
    if size != index.get("bytes"):
        raise DataError(f"{path}/images.bin: has {size} bytes, its index says {index.get('bytes')}; {again}")
    return Store(name, path, index)


__all__ = ["SPLITS", "Pictured", "Split", "Store", "StoreWriter", "decode_picture", "measure", "open_store"]
