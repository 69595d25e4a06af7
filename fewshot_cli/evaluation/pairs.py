"""Results on the same episodes, side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.records import finished_records
from fewshot_cli.evaluation.results import EpisodeRecord
from fewshot_cli.runtime.files import regular
from fewshot_cli.runtime.runs import CONFIG


class Side(NamedTuple):
    """The records of one result, the hash of the images it was evaluated on (None: unknown), and its name."""

    records: Sequence[EpisodeRecord]
    data: str | None
    name: str


def of_run(path: Path) -> Side:
    """The side of a run's folder. Raises `DataError` where it holds no records."""
    records = finished_records(path)
    try:
        data = json.loads(regular(path / CONFIG).read_text("utf-8"))["identity"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        data = None
    return Side(records, data if isinstance(data, str) else None, str(path))


def accuracies(first: Side, second: Side) -> tuple[list[float], list[float]]:
    """Accuracies of both on the episodes they share. Raises `DataError` when there are none, or images differ."""
    if None not in (first.data, second.data) and first.data != second.data:
        raise DataError(
            f"{first.name} and {second.name} were evaluated on different images; only equal episodes can be paired"
        )
    a, b = (_numbered(side.records) for side in (first, second))
    numbers = sorted(set(a) & set(b))
    if not numbers:
        raise DataError(f"{first.name} and {second.name} have no episode in common")
    for number in numbers:
        if any(a[number][key] != b[number][key] for key in ("classes", "queries")):
            raise DataError(
                f"episode {number} differs between {first.name} and {second.name}: another dataset, split, seed or way"
            )
    return [a[number]["accuracy"] for number in numbers], [b[number]["accuracy"] for number in numbers]


def _numbered(records: Sequence[EpisodeRecord]) -> Mapping[int, EpisodeRecord]:
    return {record["episode"]: record for record in records}
