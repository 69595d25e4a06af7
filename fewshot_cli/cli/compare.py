"""`fsl compare`: two evaluation runs, paired by episode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.completion import run_folders
from fewshot_cli.cli.output import in_format
from fewshot_cli.evaluation.sentences import difference
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.latex import Mark, latex
from fewshot_cli.runtime.render import Format, plus_minus

Printed = o.format_option(Format.table, Format.json, Format.md, Format.csv, Format.latex)


def compare(
    first: Annotated[
        Path, typer.Argument(autocompletion=run_folders, help="Run folder of `fsl eval`, or a recipe: its newest run.")
    ],
    second: Annotated[
        Path, typer.Argument(autocompletion=run_folders, help="Another one, evaluated on the same episodes.")
    ],
    format: Annotated[Format, Printed] = Format.table,
) -> None:
    """Accuracy of FIRST minus SECOND on the episodes that both have, with the paired 95 % interval."""
    from fewshot_cli.evaluation.pairs import accuracies, of_run
    from fewshot_cli.evaluation.stats import mean_ci95, paired
    from fewshot_cli.runtime.run_folders import folder_of, told_apart

    first, second = folder_of(first, "eval"), folder_of(second, "eval")
    a, b = accuracies(of_run(first), of_run(second))
    names = told_apart((first, second))
    if format is Format.latex:
        return emit(_latex(names, (a, b)))
    (mean_a, ci_a), (mean_b, ci_b), (gap, ci95) = mean_ci95(a), mean_ci95(b), paired(a, b)
    result = {
        "episodes": len(a),
        "first": {"accuracy": mean_a, "ci95": ci_a},
        "second": {"accuracy": mean_b, "ci95": ci_b},
        "difference": {"accuracy": gap, "ci95": ci95},
    }
    emit(in_format(format, result, [_table(names, result)], [_NOTE], _records(names, result), _sentence(names, result)))


_NOTE = "intervals: 95 %, normal approximation over episodes; that of the difference Student's t over their differences"


def _sentence(names: Sequence[str], result: dict[str, Any]) -> str:
    """The comparison as an equation."""
    a, b, gap = (result[key] for key in ("first", "second", "difference"))
    sides = f"{names[0]} {a['accuracy']:.2f}", f"{names[1]} {b['accuracy']:.2f}"
    return difference(*sides, gap["accuracy"], gap["ci95"], result["episodes"])


def _latex(names: Sequence[str], accuracies: tuple[list[float], list[float]]) -> str:
    """Both runs as a table, each with its accuracy, and the difference of the first to the second."""
    from fewshot_cli.evaluation.comparisons import standings
    from fewshot_cli.evaluation.stats import mean_ci95, paired

    differences = [plus_minus(*paired(*accuracies), "+"), ""]
    rows = [
        [name, plus_minus(*mean_ci95(values)), difference]
        for name, values, difference in zip(names, accuracies, differences, strict=True)
    ]
    marks: dict[tuple[int, int], Mark] = {(i, 1): s for i, s in enumerate(standings(accuracies)) if s}
    note = f"{len(accuracies[0])} paired episodes; 95 % intervals"
    return latex(["run", "accuracy %", "difference"], rows, marks, [note])


def _table(names: Sequence[str], result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [[name, plus_minus(**_mean(result[key]))] for name, key in zip(names, ("first", "second"), strict=True)]
    rows.append(["difference", plus_minus(**_mean(result["difference"]), sign="+")])
    return ["run", "accuracy %"], rows


def _mean(value: dict[str, Any]) -> dict[str, Any]:
    return {"mean": value["accuracy"], "ci95": value["ci95"]}


def _records(names: Sequence[str], result: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparison as one row of CSV."""
    record: dict[str, Any] = {"first": names[0], "second": names[1], "episodes": result["episodes"]}
    for key in ("first", "second", "difference"):
        record |= {f"{key} accuracy": result[key]["accuracy"], f"{key} ci95": result[key]["ci95"]}
    return [record]
