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
FEATURES = "features"  # float32 [d,h,w] in place of an image
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
    columns_sha256: str = ""  # of the columns alone, so that labels are verified without reading the images


def hashed_columns(columns: dict[str, Any]) -> bytes:
    """What a split's SHA-256 covers besides its images: offsets follow from the sizes, and names are for messages."""
    return json.dumps({k: columns[k] for k in ("classes", "label", "size", "shape", "box")}, sort_keys=True).encode()


def is_count(value: Any) -> bool:
    """Whether a value of JSON is a whole number of zero or more; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_columns(columns: dict[str, Any]) -> None:
    """Raise `ValueError` where the columns of a split hold what no index holds: other types, other lengths."""

    def several(value: Any, count: int) -> bool:
        return isinstance(value, list) and len(value) == count and all(map(is_count, value))

    classes, lists = columns["classes"], {key: columns[key] for key in ("label", "size", "shape", "box", "name")}
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes")
    if not all(isinstance(x, list) for x in lists.values()) or len(set(map(len, lists.values()))) != 1:
        raise ValueError("columns of different lengths")
    right = {
        "label": lambda x: is_count(x) and x < len(classes),
        "size": is_count,
        "shape": lambda x: several(x, 2),
        "box": lambda x: x is None or several(x, 4),
        "name": lambda x: isinstance(x, str),
    }
    for key, fits in right.items():
        if not all(map(fits, lists[key])):
            raise ValueError(key)
    if not is_count(columns["offset"]):
        raise ValueError("offset")


def is_store(path: Path) -> bool:
    """Whether a folder is a store, whole or damaged, or empty: what `--force` may replace."""
    return path.is_dir() and ((path / INDEX).exists() or (path / IMAGES).exists() or not any(path.iterdir()))


def write_index(path: Path, index: dict[str, Any]) -> None:
    """Write and sync an index, in one line because only programs read it."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(index, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
