"""A user's folder of class folders, read at once: what a split of a store is, without the store."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli.data.archive import Source, hidden
from fewshot_cli.data.layouts import PICTURES, by_class_folder
from fewshot_cli.data.store import decode_picture
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import guarded


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


class Pictures:
    """Loose picture files, and the pictures of folders below them: `names` and pictures on demand.

    Raises `DataError` for a path that does not exist and for a folder without pictures.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.store, self.split, self.names = "pictures", "given", []
        for path in paths:
            if path.is_dir():
                below = (p for p in path.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
                found = sorted(p for p in below if not hidden(p.relative_to(path).as_posix()))
                if not found:
                    raise DataError(f"{path}: holds no pictures ({' '.join(PICTURES)})")
                self.names += map(str, found)
            elif path.is_file():
                self.names.append(str(path))
            else:
                raise DataError(f"{path}: no such file or folder; give pictures or folders of pictures")
        self._data = []
        for name in self.names:
            with guarded(Path(name)):
                self._data.append(Path(name).read_bytes())
        self._digests = [hashlib.sha256(data) for data in self._data]
        self.sha256 = hashlib.sha256(b"".join(one.digest() for one in self._digests)).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def identities(self) -> list[str]:
        """As `Pictured.identities`: hashes of the files."""
        return [one.hexdigest() for one in self._digests]

    def decode(
        self, side: int, crop: str = "box", tick: Callable[[int], None] | None = None, only: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `Folder.decode`."""
        picks = range(len(self)) if only is None else only
        pairs = [decode_picture(self._data[i], self.names[i], side) for i in picks]
        return tuple(torch.stack(x) for x in zip(*pairs, strict=True))
