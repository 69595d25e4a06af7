"""A user's own images: class folders, split folders of class folders, or a CSV of file,label[,split]."""

import csv
import json
from pathlib import Path

import numpy as np
from pydantic import Field

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.format import SPLITS
from fewshot_cli.data.layouts import by_class_folder, is_image
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import regular

Table = dict[str, tuple[list[str], str | None]]
"""Class → names of its images, and the split that the source puts it into, if any."""


class ImagesOptions(Options):
    """How classes are divided when the source itself does not say."""

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
        if path.suffix.lower() == ".csv":
            listed, root = _from_csv(path), path.parent
        else:
            listed, root = None, path
        writer.info["upright"] = True  # a user's own images are rotated as the camera recorded
        with Source(root, writer.target.parent) as files:
            table = _from_folders(files) if listed is None else listed
            if not table:
                raise DataError(f"{path}: holds no images; --from takes {self.source}")
            classes = self._assign(table, path)
            for split in SPLITS:
                for cls in sorted(c for c, s in classes.items() if s == split):
                    for name in table[cls][0]:
                        writer.add(split, cls, files.read(name), name)

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


def _from_folders(files: Source) -> Table:
    names = [n for n in files.names if is_image(n)]
    longest = len(names[0]) if names else 0
    while len({n.split("/")[0] for n in names}) == 1 and all(n.count("/") >= 3 for n in names):
        names = [n.partition("/")[2] for n in names]  # one folder around everything
    skip = longest - len(names[0]) if names else 0
    tops = {n.split("/")[0] for n in names if n.count("/") >= 2}
    split_of = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    if tops & set(split_of) and not tops <= set(split_of):
        odd, split = min(tops - set(split_of)), min(tops & set(split_of))
        raise DataError(
            f"{files.path}: has the split folder {split}, but {odd} beside it is none of {', '.join(split_of)}; "
            "put its classes into one of these, or the split folders' classes side by side"
        )
    if tops and tops <= set(split_of):
        table: Table = {}
        for top in sorted(tops):
            for cls, names in by_class_folder(n for n in files.names if n[skip:].startswith(f"{top}/")).items():
                if cls in table:
                    raise DataError(
                        f"{files.path}: class {cls} is in two splits ({table[cls][1]}, {top}); "
                        "in few-shot learning a class belongs to one"
                    )
                table[cls] = (names, split_of[top])
        return table
    return {cls: (names, None) for cls, names in by_class_folder(files.names).items()}


def _from_csv(path: Path) -> Table:
    table: Table = {}
    try:
        with regular(path).open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"file", "label"} <= set(rows.fieldnames or []):
                raise DataError(f"{path}:1: needs a header with the columns file,label (and optionally split)")
            for line, row in enumerate(rows, 2):
                name, cls, split = row["file"], row["label"], row.get("split") or None
                if not name or not cls:
                    raise DataError(f"{path}:{line}: file or label is empty")
                if split and split not in SPLITS:
                    raise DataError(f"{path}:{line}: split {split!r} is none of train, val, test")
                if Path(name).is_absolute() or ".." in Path(name).parts:
                    raise DataError(f"{path}:{line}: {name} leaves the CSV's folder; name files relative to it")
                names, before = table.setdefault(cls, ([], split))
                if before != split:
                    raise DataError(
                        f"{path}:{line}: class {cls} is in two splits; in few-shot learning a class belongs to one"
                    )
                names.append(name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    return table


def _from_file(path: Path, table: Table) -> dict[str, str]:
    try:
        splits = json.loads(regular(path).read_text("utf-8"))
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
