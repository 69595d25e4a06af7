"""The format of a packed store: names of its files, its version, and the columns of its index.

`<data root>/<name>/images.bin` holds the encoded images, one split after the other; `index.json` holds class names,
labels, offsets, shapes, boxes, checksums and the format version. The folder appears by one rename when it is whole.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
IMAGES, INDEX = "images.bin", "index.json"
SPLITS = ("train", "val", "test")
RAW = "raw"  # uint8 RGB pixels, row by row
ENCODED = "encoded"  # an image file as it was published


@dataclass
class Columns:
    """The index of one split: `classes` by name, then one entry per image in each column."""

    classes: list[str] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    offset: int = 0  # of the first image; the others follow without gaps
    size: list[int] = field(default_factory=list)
    shape: list[list[int]] = field(default_factory=list)
    box: list[list[int] | None] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    sha256: str = ""


def hashed_columns(columns: dict[str, Any]) -> bytes:
    """What a split's SHA-256 covers besides its images: offsets follow from the sizes, and names are for messages."""
    return json.dumps({k: columns[k] for k in ("classes", "label", "size", "shape", "box")}, sort_keys=True).encode()


def is_store(path: Path) -> bool:
    """Whether a folder is a store, whole or damaged, or empty: what `--force` may replace."""
    return path.is_dir() and ((path / INDEX).exists() or (path / IMAGES).exists() or not any(path.iterdir()))


def write_index(path: Path, index: dict[str, Any]) -> None:
    """Write and sync an index, in one line because only programs read it."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(index, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
