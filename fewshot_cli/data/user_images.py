"""A user's own images, read at once: they serve like a split of a store, without the store."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli.data.archive import Source, hidden
from fewshot_cli.data.decode import cut_out, decode_image, open_image
from fewshot_cli.data.layouts import IMAGE_SUFFIXES, by_class_folder, is_image
from fewshot_cli.data.store import BoxesOf
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import guarded, regular


class _Files:
    """Image files in memory, an `ImageSet`: `names` [N] for results, `paths` [N] for messages.

    The hash covers the files and, before them, `classes`.
    """

    def __init__(
        self, store: str, split: str, names: list[str], paths: list[str], data: list[bytes], classes: bytes = b""
    ) -> None:
        self.store, self.split, self.names = store, split, names
        self._paths, self._data = paths, data
        self._digests = [hashlib.sha256(one) for one in data]
        self.sha256 = hashlib.sha256(classes + b"".join(one.digest() for one in self._digests)).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def identities(self) -> list[str]:
        """As `ImageSet.identities`: hashes of the files."""
        return [one.hexdigest() for one in self._digests]

    def decode(
        self, side: int, crop: str = "box", tick: Callable[[int], None] | None = None, only: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `ImageSet.decode`; files have no boxes, so `crop` changes nothing."""
        picks = range(len(self)) if only is None else only
        out, sizes = torch.empty(len(picks), 3, side, side, dtype=torch.uint8), torch.empty(len(picks), 2)
        for place, i in enumerate(picks):
            out[place], sizes[place] = decode_image(self._data[i], self._paths[i], side)
            if tick:
                tick(place + 1)
        return out, sizes

    def patches(self, picks: Sequence[int], boxes: BoxesOf, side: int, crop: str = "box") -> Tensor:
        """As `ImageSet.patches`."""
        images = (open_image(self._data[i], self._paths[i], upright=True) for i in picks)
        return torch.stack(
            [cut_out(image, *boxes(i, image.width, image.height), side) for i, image in zip(picks, images, strict=True)]
        )


class Folder(_Files):
    """`<path>/<class>/<image>`, or an archive of that: `classes`, `labels` [N], `names` [N] and images on demand.

    `option` is the command's option that names the path. Raises `DataError` when there are no class folders with
    images.
    """

    def __init__(self, path: Path, option: str) -> None:
        with Source(path, path.parent, option) as files:
            groups = by_class_folder(files.names)
            names = [name for group in groups.values() for name in group]
            data = [files.read(name) for name in names]
        if not groups:
            raise DataError(f"{path}: holds no images in class folders; put them in {path}/<class>/<image>")
        self.classes = list(groups)
        self.labels = torch.tensor([i for i, group in enumerate(groups.values()) for _ in group])
        sizes = repr([(cls, len(group)) for cls, group in groups.items()]).encode()
        super().__init__(path.name, "images", names, [f"{path}/{name}" for name in names], data, sizes)


class LooseImages(_Files):
    """Image files, and those of all folders below the paths given: `names` [N] and images on demand.

    Raises `DataError` for a path that does not exist and for a folder without images.
    """

    def __init__(self, paths: list[Path]) -> None:
        names = [name for path in paths for name in _image_files(path)]
        data = []
        for name in names:
            with guarded(Path(name)):
                data.append(regular(Path(name)).read_bytes())
        super().__init__("images", "files", names, names, data)


def _image_files(path: Path) -> list[str]:
    """The file itself, whatever its suffix, or the images of a folder and all below it that are not hidden."""
    if path.is_dir():
        inside = (p for p in path.rglob("*") if is_image(p.name) and p.is_file())
        images = sorted(p for p in inside if not hidden(p.relative_to(path).as_posix()))
        if not images:
            raise DataError(f"{path}: holds no images ({' '.join(IMAGE_SUFFIXES)})")
        return [str(image) for image in images]
    if not regular(path).is_file():
        raise DataError(f"{path}: no such file or folder; give images or folders of images")
    return [str(path)]
