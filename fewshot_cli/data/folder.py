"""A user's folder of class folders, read at once: what a split of a store is, without the store."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli.data.archive import Source
from fewshot_cli.data.common import by_class_folder
from fewshot_cli.data.store import decode_picture
from fewshot_cli.errors import DataError


class Folder:
    """`<path>/<class>/<picture>`, or an archive of that: `classes`, `labels` [N], `names` [N], `sha256`, and pictures
    on demand.

    `option` is the command's option that names the path. Raises `DataError` when there are no class folders with
    pictures.
    """

    def __init__(self, path: Path, option: str) -> None:
        self.store, self.split = path.name, "pictures"
        with Source(path, path.parent, option) as files:
            groups = by_class_folder(files.names)
            self._pictures = [(f"{path}/{n}", files.read(n)) for names in groups.values() for n in names]
        if not groups:
            raise DataError(f"{path}: holds no pictures in class folders; put them in {path}/<class>/<picture>")
        self.classes = list(groups)
        self.labels = torch.tensor([i for i, names in enumerate(groups.values()) for _ in names])
        self.names = [n for names in groups.values() for n in names]
        digest = hashlib.sha256(repr(list(zip(self.classes, map(len, groups.values()), strict=True))).encode())
        self._digests = [hashlib.sha256(data) for _, data in self._pictures]
        for one in self._digests:
            digest.update(one.digest())
        self.sha256 = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._pictures)

    def identities(self) -> list[str]:
        """As `Pictured.identities`: hashes of the files."""
        return [one.hexdigest() for one in self._digests]

    def decode(
        self, side: int, crop: str = "box", tick: Callable[[int], None] | None = None, only: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pictures (all, or `only` these) squashed to uint8 [N,3,side,side], and their sizes before that [N,2] (h, w).

        A folder has no boxes, so `crop` changes nothing.
        """
        chosen = self._pictures if only is None else [self._pictures[i] for i in only]
        out, sizes = torch.empty(len(chosen), 3, side, side, dtype=torch.uint8), torch.empty(len(chosen), 2)
        for i, (name, data) in enumerate(chosen):
            out[i], sizes[i] = decode_picture(data, name, side)
            if tick:
                tick(i + 1)
        return out, sizes
