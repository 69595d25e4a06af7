"""A dry run of `fsl prepare`: what a dataset would hold, before anything is written."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_cli import registry
from fewshot_cli.config.schema import MAX_PIXELS
from fewshot_cli.contracts import DatasetBuilder
from fewshot_cli.errors import DataError


class _Counted:
    """An `ImageSink` that counts."""

    def __init__(self, target: Path) -> None:
        self.target, self.where = target, ""
        self.info: dict[str, Any] = {}
        self.skipped: dict[str, list[str]] = {}
        self.skip_bad, self.max_pixels = False, MAX_PIXELS
        self.classes: dict[str, Counter[str]] = {}

    def add(
        self, split: str, cls: str, image: bytes | np.ndarray, name: str, box: tuple[int, ...] | None = None
    ) -> None:
        """As `ImageSink.add`."""
        self.classes.setdefault(split, Counter())[cls] += 1

    def count(self, split: str) -> int:
        """As `ImageSink.count`."""
        return sum(self.classes.get(split, {}).values())

    def longest_side(self) -> int:
        """Unknown, since nothing is decoded: as long as any builder asks for."""
        return sys.maxsize


def survey(builder: DatasetBuilder, sources: list[Path], target: Path) -> dict[str, Any]:
    """The classes of each split with their numbers of images, and what would be left out. Raises `DataError` as the
    builder does.
    """
    counted = _Counted(target)
    builder.build(sources, counted)
    return {
        "dry_run": True,
        "classes": {split: dict(classes) for split, classes in counted.classes.items()},
        "skipped": {reason: len(names) for reason, names in counted.skipped.items()},
    }


def plan_sources(dataset: str, given: Path | None) -> list[Path]:
    """What a dry run reads. Raises `DataError` where that would have to be downloaded first."""
    if given is None and not registry.dataset(dataset).embedded:
        raise DataError(f"{dataset}: give --from a folder or archive; a dry run downloads nothing")
    return [given] if given is not None else []
