"""Reading the episodes' records of a run: what is read again is checked for its place and its arithmetic."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewshot_cli.data.format import is_count
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.results import EpisodeRecord
from fewshot_cli.runtime.files import regular
from fewshot_cli.runtime.runs import Run

RECORDS = "episodes.jsonl"


def finished_records(run: Path) -> list[EpisodeRecord]:
    """The records of a run's directory. Raises `DataError` for one that cannot be, and for a missing file."""
    file = run / RECORDS
    if not run.exists():
        raise DataError(
            f"{run}: no such folder; `fsl runs ls` lists the runs, `fsl runs path RECIPE` prints the newest of a recipe"
        )
    if not regular(file).is_file():
        raise DataError(f"{file}: is not the record of an `fsl eval` run (there is no such file)")
    try:
        return checked(Run.records(file), file)
    except ValueError as error:
        raise DataError(f"{file}: is not the record of an `fsl eval` run ({error})") from error


def checked(
    records: Sequence[Any], where: Path, queries: int | None = None, run: str | None = None
) -> list[EpisodeRecord]:
    """The records themselves, one for each episode from 0 on, each with an accuracy that follows from its counts.

    `queries` is how many an episode has and `run` its run's mark, if they are known. Raises `DataError` for the first
    that is otherwise: it was changed or written twice, and what is computed from it would be wrong.
    """
    for number, record in enumerate(records):
        reason = _wrong(record, number, queries)
        if reason is None and run is not None and record.get("run", run) != run:
            reason = "is of another run"
        if reason is not None:
            raise DataError(
                f"{where}:{number + 1}: {reason}; the file was changed or damaged, so evaluate the run again in "
                "another --run-dir"
            )
    return list(records)


def _wrong(record: Any, number: int, queries: int | None) -> str | None:
    """What is wrong with a record, None if nothing is."""
    if not isinstance(record, dict):
        return "is no record of an episode"
    if record.get("episode") != number or isinstance(record["episode"], bool):
        return f"is of episode {str(record.get('episode'))[:20]}, where {number} belongs"
    counts = [record.get(key) for key in ("correct", "queries", "not_converged")]
    if not all(map(is_count, counts)):
        return "has counts that are not whole numbers of zero or more"
    if not 0 < record["queries"] >= record["correct"] or queries not in (None, record["queries"]):
        return f"has {record['correct']} correct of {record['queries']} queries"
    accuracy = record.get("accuracy")
    if isinstance(accuracy, bool) or not isinstance(accuracy, (int, float)) or not 0 <= accuracy <= 100:
        return "has no accuracy between 0 and 100 %"
    if not math.isclose(accuracy, 100 * record["correct"] / record["queries"], rel_tol=1e-9, abs_tol=1e-9):
        return f"says {accuracy:.6g} %, which {record['correct']} of {record['queries']} is not"
    classes = record.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return "has no list of classes"
    return _wrong_answers(record, len(classes)) if "predicted" in record else None


def _wrong_answers(record: Any, way: int) -> str | None:
    """What is wrong with the answers of an episode, which lie class by class."""
    predicted, queries = record["predicted"], record["queries"]
    if not isinstance(predicted, list) or len(predicted) != queries or queries % max(way, 1):
        return f"has no answer for each of its {queries} queries"
    if not all(is_count(answer) and answer < way for answer in predicted):
        return f"has an answer that is none of its {way} classes"
    if sum(answer == k // (queries // way) for k, answer in enumerate(predicted)) != record["correct"]:
        return f"says {record['correct']} correct, which its answers are not"
    return None
