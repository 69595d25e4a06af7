"""Glyphs as image files in class folders, as a user has photos."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from fewshot_cli.data.store import open_store


def save(glyph_root: Path, folder: Path, classes: Iterable[int], pick: slice, name: str = "{}.png") -> None:
    """Some images of each class of the test split as `<folder>/class<number>/<name>`, numbered from 0."""
    split = open_store(glyph_root, "glyphs").split("test")
    members = split.members()
    for c in classes:
        into = folder / f"class{c}"
        into.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(split.decode(32, only=members[c][pick].tolist())[0]):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(into / name.format(i))
