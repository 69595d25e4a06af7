"""A recipe's weights, backbone and head at work on a user's own pictures."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli import build
from fewshot_cli.data.archive import hidden
from fewshot_cli.data.common import PICTURES
from fewshot_cli.data.store import Pictured, decode_picture
from fewshot_cli.engine import World
from fewshot_cli.errors import DataError
from fewshot_cli.evaluate import load_parts
from fewshot_cli.features import cached
from fewshot_cli.files import guarded
from fewshot_cli.schema import Recipe


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


class Parts:
    """Weights, backbone and head of a recipe, and the features of pictures where the head works.

    `made_for` is what a classifier learned on these features depends on.
    """

    def __init__(self, recipe: Recipe, given: Path | None, root: Path, device: torch.device) -> None:
        self.recipe, self.root, self.device = recipe, root, device
        self.weights = build.weights(recipe, given)
        self.backbone, self.head = load_parts(recipe, self.weights)
        self.home = build.matching_device(self.head, device)
        self.head.to(self.home).eval()
        self.made_for = {
            "weights": self.weights.checkpoint.sha256,
            **{k: recipe.resolved()[k] for k in ("backbone", "image", "extractor")},
        }
        self.embedding = 0.0

    def maps(self, pictures: Pictured) -> Tensor:
        """Maps [N,d,h,w]; `embedding` then holds the seconds they took."""
        maps, self.embedding = cached(
            self.recipe, pictures, self.backbone, self.made_for["weights"], self.root, World(self.device)
        )
        return maps.to(self.home)
