"""`fsl compare`: two evaluation runs, paired by episode."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import emit


def compare(
    first: Annotated[Path, typer.Argument(help="Run directory of `fsl eval`.")],
    second: Annotated[Path, typer.Argument(help="Another one, on the same episodes.")],
    debug: o.Debug = False,
) -> None:
    """Accuracy of FIRST minus SECOND on the episodes both have, with the paired 95 % interval."""
    from fewshot_cli.evaluation.stats import mean_ci95, paired

    a, b = (_episodes(path) for path in (first, second))
    if len({_data(path) for path in (first, second)} - {None}) > 1:
        raise DataError(
            f"{first} and {second} were evaluated on different pictures; only the same episodes can be paired"
        )
    shared = sorted(set(a) & set(b))
    if not shared:
        raise DataError(f"{first} and {second} have no episode in common")
    for number in shared:
        if a[number]["classes"] != b[number]["classes"] or a[number]["queries"] != b[number]["queries"]:
            raise DataError(
                f"episode {number} differs between {first} and {second}: another dataset, split, seed or way"
            )
    left, right = ([run[n]["accuracy"] for n in shared] for run in (a, b))
    (mean_a, ci_a), (mean_b, ci_b), (difference, ci95) = mean_ci95(left), mean_ci95(right), paired(left, right)
    emit(
        json.dumps(
            {
                "episodes": len(shared),
                "first": {"accuracy": mean_a, "ci95": ci_a},
                "second": {"accuracy": mean_b, "ci95": ci_b},
                "difference": {"accuracy": difference, "ci95": ci95},
            },
            indent=2,
        )
    )


def _data(path: Path) -> str | None:
    """Hash of the pictures a run was evaluated on, where its configuration says so."""
    from fewshot_cli.runtime.runs import CONFIG

    try:
        return json.loads((path / CONFIG).read_text("utf-8"))["identity"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _episodes(path: Path) -> dict[int, dict]:
    file = path / "episodes.jsonl"
    try:
        return {record["episode"]: record for record in map(json.loads, file.read_text("utf-8").splitlines())}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DataError(f"{file}: is not the record of an `fsl eval` run ({fault})") from fault
