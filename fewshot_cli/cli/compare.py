"""`fsl compare`: two evaluation runs, paired by episode."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli.completion import run_folders
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import as_json


def compare(
    first: Annotated[Path, typer.Argument(autocompletion=run_folders, help="Run directory of `fsl eval`.")],
    second: Annotated[
        Path, typer.Argument(autocompletion=run_folders, help="Another one, evaluated on the same episodes.")
    ],
) -> None:
    """Accuracy of FIRST minus SECOND on the episodes that both have, with the paired 95 % interval."""
    from fewshot_cli.evaluation.pairs import accuracies, of_run
    from fewshot_cli.evaluation.stats import mean_ci95, paired

    a, b = accuracies(of_run(first), of_run(second))
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
