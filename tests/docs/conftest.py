"""A folder as the pages suppose it: own photos in class folders and loose, drawn from the embedded glyphs."""

import shutil
from pathlib import Path

import glyph_files
import pytest


@pytest.fixture(scope="session")
def photos(glyph_root, tmp_path_factory) -> Path:
    """Folders `examples/`, `labelled/`, `library/`, `wanted/` of five classes, `photos/`, and single images."""
    folder = tmp_path_factory.mktemp("photos")
    for name, pick in (
        ("examples", slice(0, 3)),
        ("labelled", slice(3, 6)),
        ("library", slice(6, 9)),
        ("wanted", slice(9, 11)),
    ):
        glyph_files.save(glyph_root, folder / name, range(5), pick)
    (folder / "photos").mkdir()
    for place in sorted((folder / "wanted").glob("*/0.png")):
        shutil.copy(place, folder / "photos" / f"{place.parent.name}.png")
    for name, number in (("one.png", 0), ("other.png", 1)):
        shutil.copy(folder / "labelled" / "class2" / f"{number}.png", folder / name)
    return folder
