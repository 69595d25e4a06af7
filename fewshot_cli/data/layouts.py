"""What several dataset builders share: class splits, pictures by class folder, and safe pickles."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")


def class_split(name: str) -> dict[str, list[str]]:
    """The published class split shipped as `splits/<name>.json`: train, val and test class names."""
    return json.loads((Path(__file__).parent / "splits" / f"{name}.json").read_text("utf-8"))


def by_class_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """Group picture files by the folder that holds them: class name → sorted member names."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        pure = PurePosixPath(name)
        if pure.suffix.lower() in PICTURES and pure.parent.name:
            groups[pure.parent.name].append(name)
    return {cls: sorted(files) for cls, files in sorted(groups.items())}
