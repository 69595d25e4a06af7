"""`fsl compare`: two evaluation runs, paired by episode."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.completion import run_folders
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.latex import Mark, latex
from fewshot_cli.runtime.render import Format, as_json, plus_minus


def compare(
    first: Annotated[Path, typer.Argument(autocompletion=run_folders, help="Run directory of `fsl eval`.")],
    second: Annotated[
        Path, typer.Argument(autocompletion=run_folders, help="Another one, evaluated on the same episodes.")
    ],
    format: Annotated[Format, o.format_option(Format.json, Format.latex)] = Format.json,
) -> None:
    """Accuracy of FIRST minus SECOND on the episodes that both have, with the paired 95 % interval."""
    from fewshot_cli.evaluation.pairs import accuracies, of_run
    from fewshot_cli.evaluation.stats import mean_ci95, paired

    a, b = accuracies(of_run(first), of_run(second))
    if format is Format.latex:
        return emit(_latex((first, second), (a, b)))
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


def _latex(runs: tuple[Path, Path], accuracies: tuple[list[float], list[float]]) -> str:
    """Both runs as a table, each with its accuracy, and the difference of the first to the second."""
    from fewshot_cli.evaluation.comparisons import standings
    from fewshot_cli.evaluation.stats import mean_ci95, paired

    differences = [plus_minus(*paired(*accuracies), "+"), ""]
    rows = [
        [run.name, plus_minus(*mean_ci95(values)), difference]
        for run, values, difference in zip(runs, accuracies, differences, strict=True)
    ]
    marks: dict[tuple[int, int], Mark] = {(i, 1): s for i, s in enumerate(standings(accuracies)) if s}
    note = f"{len(accuracies[0])} paired episodes; 95 % intervals"
    return latex(["run", "accuracy %", "difference"], rows, marks, [note])
