"""`fsl compare`: two evaluation runs, paired by episode."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import as_json

if TYPE_CHECKING:
    from fewshot_cli.evaluation.results import EpisodeRecord


def compare(
    first: Annotated[Path, typer.Argument(help="Run directory of `fsl eval`.")],
    second: Annotated[Path, typer.Argument(help="Another one, evaluated on the same episodes.")],
) -> None:
    """Accuracy of FIRST minus SECOND on the episodes that both have, with the paired 95 % interval."""
    from fewshot_cli.evaluation.stats import mean_ci95, paired

    a, b = _paired(first, second)
    (mean_a, ci_a), (mean_b, ci_b), (difference, ci95) = mean_ci95(a), mean_ci95(b), paired(a, b)
    emit(
        as_json(
            {
                "episodes": len(a),
                "first": {"accuracy": mean_a, "ci95": ci_a},
                "second": {"accuracy": mean_b, "ci95": ci_b},
                "difference": {"accuracy": difference, "ci95": ci95},
            }
        )
    )


def _paired(first: Path, second: Path) -> tuple[list[float], list[float]]:
    """Accuracies of both runs on the episodes they share. Raises `DataError` when there are none, or images differ."""
    a, b = _episodes(first), _episodes(second)
    if len({_data(path) for path in (first, second)} - {None}) > 1:
        raise DataError(f"{first} and {second} were evaluated on different images; only equal episodes can be paired")
    numbers = sorted(set(a) & set(b))
    if not numbers:
        raise DataError(f"{first} and {second} have no episode in common")
    for number in numbers:
        if any(a[number][key] != b[number][key] for key in ("classes", "queries")):
            raise DataError(
                f"episode {number} differs between {first} and {second}: another dataset, split, seed or way"
            )
    return [a[number]["accuracy"] for number in numbers], [b[number]["accuracy"] for number in numbers]


def _data(path: Path) -> str | None:
    """Hash of the images a run was evaluated on, where its configuration says so."""
    from fewshot_cli.runtime.files import regular
    from fewshot_cli.runtime.runs import CONFIG

    try:
        return json.loads(regular(path / CONFIG).read_text("utf-8"))["identity"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _episodes(path: Path) -> "dict[int, EpisodeRecord]":
    from fewshot_cli.evaluation.records import finished_records

    return {record["episode"]: record for record in finished_records(path)}
