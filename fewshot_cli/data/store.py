"""Reading a packed store: its splits, their labels, and their images decoded on demand."""

import hashlib
import json
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from PIL import Image
from torch import Tensor

from fewshot_cli.data.decode import PUBLISHED, Reading, cut_out, in_threads, open_image, shrunk, squash
from fewshot_cli.data.format import FEATURES, FORMAT, IMAGES, INDEX, RAW, check_columns, hashed_columns, is_store
from fewshot_cli.errors import DataError
from fewshot_cli.registry import entries
from fewshot_cli.runtime.files import guarded, regular

BoxesOf = Callable[[int, int, int], tuple[list[tuple[int, int, int, int]], list[bool]]]


class ImageSet(Protocol):
    """Images to extract features from: a split of a store, or a user's own files.

    `store` and `split` name the set in messages; `sha256` is the hash of all its images.
    """

    @property
    def store(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def names(self) -> list[str]:
        """Each image's name, for messages and results [N]."""

    def __len__(self) -> int: ...

    def identities(self) -> list[str]:
        """What identifies each image, whichever others are in the set [N]."""

    def decode(
        self, side: int, crop: str = "box", tick: Callable[[int], None] | None = None, only: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images (all, or `only` these) squashed to uint8 [N,3,side,side], and their original sizes [N,2] (h, w).

        `crop` is `box` (to the bounding box where there is one) or `raw`. `tick` is called with the number of images
        decoded so far.
        """

    def viewed(self, i: int, most: int, crop: str = "box") -> tuple[Tensor, Tensor]:
        """Image i in its own proportions, for people to look at: uint8 [3,h,w] of sides of `most` pixels at most, and
        its original size [2] (h, w).
        """

    def patches(self, picks: Sequence[int], boxes: "BoxesOf", side: int, crop: str = "box") -> Tensor:
        """Patches of these images, cut from them as they are and resized: uint8 [K,P,3,side,side].

        `boxes(i, width, height)` gives the boxes of image i in pixels (left, top, right, bottom), and which to mirror.
        """


@dataclass(frozen=True)
class Split:
    """One split of a store: `classes` by name, `labels` [N], and its images on demand."""

    store: str
    split: str
    classes: list[str]
    labels: Tensor
    sha256: str
    _index: dict[str, Any]
    _file: Path
    _encoding: str
    _how: Reading = Reading(max_pixels=None)  # what is in a store was decoded when it was prepared
    _channels: int | None = None  # of features

    def members(self) -> list[Tensor]:
        """Indices of each class's images, in the store's order."""
        return [torch.nonzero(self.labels == c).flatten() for c in range(len(self.classes))]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Each image's name within its class [N]."""
        return self._index["name"]

    def identities(self) -> list[str]:
        """As `ImageSet.identities`: positions in the split."""
        return [str(i) for i in range(len(self))]

    def decode(
        self,
        side: int,
        crop: str = "box",
        tick: Callable[[int], None] | None = None,
        only: Sequence[int] | None = None,
        into: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `ImageSet.decode`, written `into` a tensor if one is given. Raises `DataError` for a damaged store."""
        _ = self._blob  # verified before the threads ask for it
        picks = range(len(self)) if only is None else only
        sizes = torch.empty(len(picks), 2)
        out = torch.empty(len(picks), 3, side, side, dtype=torch.uint8) if into is None else into

        def decode_one(place: int) -> None:
            out[place], sizes[place] = squash(self._image(picks[place], crop), side, self._how)

        for i, _ in enumerate(in_threads(decode_one, range(len(picks)))):
            if tick and i % 256 == 255:
                tick(i + 1)
        return out, sizes

    @property
    def channels(self) -> int | None:
        """Channels of its features, where it holds features in place of images."""
        return self._channels

    def maps(self) -> Tensor:
        """Its features [N,d,h,w]. Raises `DataError` for a damaged store, or one of images."""
        if self._channels is None:
            raise DataError(f"{self.store}: holds images, not features; use another backbone than identity")
        shape = (len(self), self._channels, *self._index["shape"][0])
        try:
            return torch.frombuffer(bytearray(self._blob), dtype=torch.float32).reshape(shape)
        except RuntimeError:
            self._refuse("its features are not of one shape")

    def viewed(self, i: int, most: int, crop: str = "box") -> tuple[Tensor, Tensor]:
        """As `ImageSet.viewed`. Raises `DataError` for a damaged store."""
        image = self._image(i, crop)
        return shrunk(image, most), torch.tensor([image.height, image.width])

    def patches(self, picks: Sequence[int], boxes: BoxesOf, side: int, crop: str = "box") -> Tensor:
        """As `ImageSet.patches`. Raises `DataError` for a damaged store."""
        _ = self._blob  # verified before the threads ask for it

        def cut_one(i: int) -> Tensor:
            image = self._image(i, crop)
            return cut_out(image, *boxes(i, image.width, image.height), side, self._how)

        return torch.stack(list(in_threads(cut_one, picks)))

    def longest_side(self, crop: str = "box") -> int:
        """The longest side of its images, in pixels, cropped as `decode` does."""
        boxes = self._index["box"] if crop == "box" else [None] * len(self)
        shapes = [(b[2] - b[0], b[3] - b[1]) if b else s for b, s in zip(boxes, self._index["shape"], strict=True)]
        return max(max(shape) for shape in shapes)

    def verify_labels(self) -> None:
        """Raise `DataError` where classes, labels, sizes or boxes are not those that were written.

        Stores of before `columns_sha256` are read whole for it, with their images.
        """
        check_columns(self._index)
        recorded = self._index.get("columns_sha256")
        if recorded is None:
            _ = self._blob
        elif hashlib.sha256(hashed_columns(self._index)).hexdigest() != recorded:
            self._refuse(f"the classes or labels of {self.split} do not match their SHA-256 in the index")

    def _image(self, i: int, crop: str) -> Image.Image:
        if self._channels is not None:
            raise DataError(f"{self.store}: holds features, not images; use backbone identity, or a dataset of images")
        data = bytes(self._blob[self._ends[i] - self._index["size"][i] : self._ends[i]])
        if self._encoding == RAW:
            h, w = self._index["shape"][i]
            image = Image.frombuffer("RGB", (w, h), data)
        else:
            image = open_image(data, self._index["name"][i], self._how)
        box = self._index["box"][i] if crop == "box" else None
        return image.crop(tuple(box)) if box else image

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(self._index["size"]))

    @cached_property
    def _blob(self) -> memoryview:
        """The images' bytes, verified when they are first asked for; mapped, since they may exceed the memory."""
        start = self._index["offset"]
        with guarded(self._file), regular(self._file).open("rb") as file:
            blob = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[start : start + self._ends[-1]]
        self._verify(blob)
        return blob

    def _verify(self, blob: memoryview) -> None:
        digest = hashlib.sha256(blob)
        digest.update(hashed_columns(self._index))
        if digest.hexdigest() != self.sha256:
            self._refuse(f"the {self.split} images do not match the index's SHA-256")

    def _refuse(self, reason: str) -> NoReturn:
        raise DataError(
            f"{self._file}: {reason}, so the store is damaged; run `fsl prepare {self.store} --force` again"
        )


@dataclass(frozen=True)
class Store:
    """An opened store; `how` its images are read, but that it says itself whether they are turned."""

    name: str
    path: Path
    index: dict[str, Any]
    how: Reading = PUBLISHED

    def split(self, split: str) -> Split:
        """One split. Raises `DataError` when the dataset has no such split."""
        if split not in self.index["splits"]:
            have = ", ".join(self.index["splits"])
            raise DataError(f"{self.path}: has no {split} split (it has {have}); set eval.split to one of them")
        columns = self.index["splits"][split]
        try:
            made = Split(
                self.name,
                split,
                columns["classes"],
                torch.tensor(columns["label"], dtype=torch.int64),
                columns["sha256"],
                columns,
                self.path / IMAGES,
                self.index["encoding"],
                replace(self.how, upright=self.index.get("upright", False), max_pixels=None),
                self.index["channels"] if self.index["encoding"] == FEATURES else None,
            )
            made.verify_labels()
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise DataError(
                f"{self.path / INDEX}: its {split} split is not what a store's index holds ({type(error).__name__}), "
                f"so the store is damaged; run `fsl prepare {self.name} --force` again"
            ) from error
        return made


def open_store(root: Path, name: str, how: Reading = PUBLISHED) -> Store:
    """Open `<root>/<name>`. Raises `DataError` when it is absent, half-written, damaged or of another format."""
    path = root / name
    again = f"run `fsl prepare {name} --force` again"
    if not path.exists():
        if name in entries("datasets"):
            hint = f"run `fsl prepare {name}` (see `fsl show dataset {name}`)"
        else:  # a store of somebody's own
            hint = f"run `fsl prepare images --from FOLDER --name {name}`, or another dataset with that --name"
        raise DataError(f"{path}: dataset {name} is not prepared; {hint}")
    if not is_store(path):
        raise DataError(f"{path}: is not a store; choose another --data-root, or another --name for `fsl prepare`")
    try:
        index = json.loads(regular(path / INDEX).read_text("utf-8"))
        version = index.get("format") if isinstance(index, dict) else None
        if version != FORMAT or not isinstance(index, dict):
            raise DataError(f"{path}: store format {version}, this version reads {FORMAT}; {again}")
        if not isinstance(index.get("splits"), dict):
            raise ValueError("its index has no splits")
        if "encoding" not in index:
            raise ValueError("its index has no encoding")
        size = (path / IMAGES).stat().st_size
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is not a whole store ({error}); {again}") from error
    if size != index.get("bytes"):
        raise DataError(f"{path / IMAGES}: has {size} bytes, its index says {index.get('bytes')}; {again}")
    return Store(name, path, index, how)
