"""A user's own images: class folders, split folders of class folders, or a CSV of file,label[,split]."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import Field

from fewshot_cli.config.schema import MAX_PIXELS
from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.arrange import arrange
from fewshot_cli.data.format import SPLITS
from fewshot_cli.data.listed import Table, from_csv
from fewshot_cli.data.user_images import images_of
from fewshot_cli.data.walk import told
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import guarded, regular


class ImagesOptions(Options):
    """Which folders are the classes, how large images may be, and how classes are divided when the source does not
    say.
    """

    class_level: int | None = Field(
        None, ge=1, le=9, description="where images lie in folders of folders: classes are the first (1), second (2), …"
    )
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="pixels of one image that may be held in memory")
    splits: str | None = Field(None, description='JSON file {"train": [class, …], "val": […], "test": […]}')
    split_seed: int = Field(0, ge=0, lt=2**32, description="seed of the random split of classes")
    val_share: float = Field(0.16, ge=0, le=1, description="share of classes for validation")
    test_share: float = Field(0.20, ge=0, le=1, description="share of classes for testing")


class Images(DatasetBuilder[ImagesOptions]):
    """Your own images; classes are split by the source's train/val/test folders or column, a file, or a seed."""

    source = (
        "a folder (or archive) <class>/<image> or train|val|test/<class>/<image>, or a CSV "
        "with columns file,label[,split]"
    )

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write split by split, classes sorted by name."""
        path = sources[0]
        writer.info["upright"] = True  # a user's own images are rotated as the camera recorded
        writer.max_pixels = self.options.max_pixels
        if path.suffix.lower() in (".csv", ".tsv"):
            writer.where = f"{path.parent}/"
            self._write(from_csv(path), path, writer, lambda name: _content(path.parent / name))
            return
        writer.where = f"{path}/"
        with Source(path, writer.target.parent) as files:
            names, others = images_of(files)
            made = arrange(names, str(path), self.options.class_level)
            writer.skipped |= {**files.skipped, **others, **made.skipped}
            if writer.skipped:
                say(told(writer.skipped, str(path)))
            table = {cls: (found, made.splits.get(cls)) for cls, found in made.classes.items()}
            self._write(table, path, writer, files.read)

    def _write(self, table: Table, path: Path, writer: ImageSink, read: Callable[[str], bytes]) -> None:
        if not table:
            raise DataError(f"{path}: holds no images in class folders; --from takes {self.source}")
        classes = self._assign(table, path)
        for split in SPLITS:
            for cls in sorted(c for c, s in classes.items() if s == split):
                for name in table[cls][0]:
                    writer.add(split, cls, read(name), name)

    def _assign(self, table: Table, path: Path) -> dict[str, str]:
        """Class → split."""
        given = {cls: split for cls, (_, split) in table.items() if split}
        if self.options.splits:
            return _from_file(Path(self.options.splits), table)
        if given:
            if len(given) != len(table):
                missing = next(c for c in table if c not in given)
                raise DataError(f"{path}: class {missing} has no split while others have; give every class one")
            return given
        shuffled = sorted(table)
        raw = np.random.Philox(key=self.options.split_seed).random_raw(len(shuffled))
        shuffled = [shuffled[i] for i in np.argsort(raw, kind="stable")]
        test = round(self.options.test_share * len(shuffled))
        val = round(self.options.val_share * len(shuffled))
        if test + val > len(shuffled):
            raise DataError("val_share and test_share together exceed 1; lower one of them")
        return {c: "test" if i < test else "val" if i < test + val else "train" for i, c in enumerate(shuffled)}


def _content(path: Path) -> bytes:
    with guarded(path):
        return regular(path).read_bytes()


def _from_file(path: Path, table: Table) -> dict[str, str]:
    try:
        splits = json.loads(regular(path).read_text("utf-8-sig"))
        if unknown := sorted(set(splits.keys()) - set(SPLITS)):
            raise DataError(f"{path}: has a split {unknown[0]!r}; splits are train, val and test")
        pairs = [(cls, split) for split in SPLITS for cls in splits.get(split, [])]
        out = dict(pairs)
        if twice := sorted({cls for cls, split in pairs if out[cls] != split}):
            raise DataError(f"{path}: class {twice[0]} is in two splits; in few-shot learning a class belongs to one")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f'{path}: is not a JSON file like {{"train": [class, …], "val": […], "test": […]}} ({error})'
        ) from error
    absent = sorted(set(out) - set(table))
    if absent:
        raise DataError(f"{path}: names class {absent[0]!r}, of which the source has no images")
    return out
