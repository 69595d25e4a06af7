"""How a user's own classes are divided into splits: as the source says, by a file, or by a seed."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from fewshot_cli.contracts import Options
from fewshot_cli.data.format import SPLITS
from fewshot_cli.data.listed import Table
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import regular


class ClassSplits(Options):
    """Which classes are for training, validation and testing."""

    splits: str | None = Field(None, description='JSON file {"train": [class, …], "val": […], "test": […]}')
    split_seed: int = Field(0, ge=0, lt=2**32, description="seed of the random split of classes")
    val_share: float = Field(0.16, ge=0, le=1, description="share of classes for validation")
    test_share: float = Field(0.20, ge=0, le=1, description="share of classes for testing")


def assign(options: ClassSplits, table: Table, path: Path) -> dict[str, str]:
    """Class → split. Raises `DataError` where some classes have a split and others have none."""
    given = {cls: split for cls, (_, split) in table.items() if split}
    if options.splits:
        return _from_file(Path(options.splits), table)
    if given:
        if len(given) != len(table):
            missing = next(c for c in table if c not in given)
            raise DataError(f"{path}: class {missing} has no split while others have; give every class one")
        return given
    shuffled = sorted(table)
    raw = np.random.Philox(key=options.split_seed).random_raw(len(shuffled))
    shuffled = [shuffled[i] for i in np.argsort(raw, kind="stable")]
    test = round(options.test_share * len(shuffled))
    val = round(options.val_share * len(shuffled))
    if test + val > len(shuffled):
        raise DataError("val_share and test_share together exceed 1; lower one of them")
    return {c: "test" if i < test else "val" if i < test + val else "train" for i, c in enumerate(shuffled)}


def in_order(classes: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Split and class, split by split, classes sorted by name: as a store is written."""
    for split in SPLITS:
        yield from ((split, cls) for cls in sorted(classes) if classes[cls] == split)


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
