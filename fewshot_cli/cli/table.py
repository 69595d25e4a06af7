"""`fsl table`: a paper's table, ours beside the printed values, with paired differences."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.latex import Mark
from fewshot_cli.runtime.render import Format, JUnitCase, junit, plus_minus
from fewshot_cli.runtime.roots import RUNS

if TYPE_CHECKING:  # importing these would import pydantic for --help
    from fewshot_cli.papers.request import Request
    from fewshot_cli.papers.schema import EvaluatedTable, MetatrainedTable, Table, TrainedTable

_SET_BY_ROWS = ("head", "head.name", "extractor", "extractor.name", "episode.way", "episode.shot", "eval.episodes")
_SET_BY_TRAINED_ROWS = (
    "pretrain.classifier",
    "backbone",
    "dataset.name",
    "dataset",
    "solver",
    "seed",
    "eval.protocol",
)


def _tables(incomplete: str) -> list[str]:
    from fewshot_cli.papers.catalog import table_names

    return [name for name in table_names() if name.startswith(incomplete)]


def table(
    name: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            autocompletion=_tables,
            help="deepemd.T1, .T2, .T3, .Fig4, .grid; mpw.T1 to .T5, .Fig2; lsc.T1 to .T6.",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", metavar="NAME", autocompletion=o.names_of("datasets"), help="Dataset to run the rows on."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", metavar="NAME", help="A 1-shot recipe, in place of the dataset's.")
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows",
            metavar="NAME",
            help="Only the row with this name, or else those whose names contain it; repeatable.",
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", min=1, help="Episodes per row (default: 600; 2000 for lsc.*).")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, max=1000, help="Number of seeds for each row of a trained table (default: 5)."),
    ] = None,
    weights: o.Weights = None,
    solver: o.Solver = None,
    sets: o.Set = None,
    format: Annotated[Format, o.format_option(*(form for form in Format if form is not Format.github))] = Format.table,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            dir_okay=False,
            rich_help_panel=o.RESULT,
            help="Draw accuracy over shots, or iterations over epochs (PNG, SVG, PDF).",
        ),
    ] = None,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
) -> None:
    """Run every row of a paper's table and print our value, the published value and the difference.

    All rows of deepemd.* are evaluated on the same episodes, and so are those of lsc.* after meta-training; the rows
    of mpw.* are trained with several seeds. Where rows are trained, the same command continues what was interrupted,
    and tables reuse each other's results where they can.
    """
    from fewshot_cli.papers.catalog import find_table
    from fewshot_cli.papers.request import Request
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import Processes

    chosen = find_table(name)
    given = {"--dataset": dataset, "--recipe": recipe, "--episodes": episodes, "--weights": weights, "--seeds": seeds}
    _check(chosen, {option: value for option, value in given.items() if value is not None}, sets or [], resume)
    _check_output(chosen, format, plot)
    first = 1 if seed is None else seed
    request = Request(
        o.data_root(data_root),
        Processes(resolve(device)),
        sets=tuple(sets or ()),
        rows=tuple(rows or ()),
        dataset=dataset,
        recipe=recipe,
        weights=weights,
        solver=solver,
        seed=seed,
        seeds=tuple(range(first, first + (seeds or 5))),
        episodes=episodes or (2000 if chosen.kind == "metatrained" else 600),
    )
    if chosen.kind == "evaluated":
        _evaluated(chosen, request, run_dir, resume, format, plot)
    elif chosen.kind == "metatrained":
        _metatrained(chosen, request, run_dir, resume, format, plot)
    else:
        _trained(chosen, request, run_dir, resume, format, plot)


def _check(table: "Table", given: dict[str, Any], sets: list[str], resume: bool) -> None:
    """Refuse options that a table of this kind does not have. Raises `FslError`."""
    name = table.name
    if resume and table.kind != "evaluated":
        raise FslError(f"--resume: {name} continues by itself what is in its run directory; leave it out")
    if table.kind == "trained":
        for option in given.keys() - {"--seeds"}:
            raise FslError(
                f"{option}: the rows of {name} are trained on the paper's data with their own recipes; leave it out"
            )
        return _refuse(sets, _SET_BY_TRAINED_ROWS, "pretrain")
    if "--seeds" in given:
        raise FslError(f"--seeds: the rows of {name} are evaluated, not trained; --seed chooses their episodes")
    if table.kind == "metatrained" and ("--recipe" in given or "--dataset" not in given):
        raise FslError(
            f"the rows of {name} are meta-trained with their own recipes; give --dataset {table.default_dataset} "
            "or another"
        )
    if ("--dataset" in given) == ("--recipe" in given):
        raise FslError("give --dataset NAME, or --recipe with a 1-shot recipe, to say what the table is run on")
    return _refuse(sets, _SET_BY_ROWS, "eval")


def _check_output(table: "Table", form: Format, plot: Path | None) -> None:
    """Refuse formats and plots that a table of this kind does not have. Raises `FslError`."""
    from fewshot_cli.figures import canvas

    name = table.name
    if table.kind == "trained":
        if form is Format.junit:
            raise FslError(f"--format junit: {name} has no test to report; use table, json, md or csv")
        if plot is not None and name != "mpw.Fig2":
            raise FslError(
                f"--plot draws the iterations of the solver over training, which {name} does not have; use mpw.Fig2"
            )
    elif plot is not None and len({column.shot for column in table.columns}) < 3:
        raise FslError(f"--plot draws accuracy over shots, and {name} has too few; leave it out or use deepemd.Fig4")
    if plot is not None:
        canvas.check(plot)


def _refuse(sets: list[str], keys: tuple[str, ...], verb: str) -> None:
    """Refuse `--set` of what the rows of a table set themselves."""
    for text in sets:
        if text.partition("=")[0].strip() in keys:
            raise FslError(f"--set {text}: the rows of a table set this themselves; leave it out, or use `fsl {verb}`")


def _evaluated(
    table: "EvaluatedTable", request: "Request", run_dir: Path | None, resume: bool, form: Format, plot: Path | None
) -> None:
    from fewshot_cli.papers import evaluated
    from fewshot_cli.runtime import runs

    cells = evaluated.EvaluatedCells(request)
    path = runs.choose(run_dir, "table", f"{table.name}-{Path(cells.base).stem}", resume)
    _run_episodes(table, request, cells, cells.base, path, resume, form, plot)


def _metatrained(
    table: "MetatrainedTable", request: "Request", run_dir: Path | None, resume: bool, form: Format, plot: Path | None
) -> None:
    from fewshot_cli.papers.metatrained import MetatrainedCells
    from fewshot_cli.runtime.runs import CONFIG

    dataset = request.dataset or table.default_dataset
    path = (run_dir or RUNS / "table" / table.name.partition(".")[0] / dataset) / table.name
    cells = MetatrainedCells(table, request, path)
    _run_episodes(table, request, cells, dataset, path, (path / CONFIG).exists(), form, plot)


def _run_episodes(
    table: Any, request: "Request", cells: Any, base: str, path: Path, resume: bool, form: Format, plot: Path | None
) -> None:
    """Run a table of few-shot accuracies and print it; when interrupted, as far as it is done."""
    from fewshot_cli.papers import evaluated

    def show(result: dict[str, Any]) -> None:
        _print_episodes(result, path, form, None)

    _print_episodes(evaluated.run(table, request, cells, base, path, resume, show), path, form, plot)


def _trained(
    table: "TrainedTable", request: "Request", run_dir: Path | None, resume: bool, form: Format, plot: Path | None
) -> None:
    from fewshot_cli.figures import curves
    from fewshot_cli.papers import trained

    result = trained.run(table, request, run_dir or RUNS / "table" / table.name.partition(".")[0])
    records = result["records"]
    said = _ran(result, [r for r in records if "missing" not in r])
    block = (*_trained_cells(records), _TRAINED_LEAST)
    emit(in_format(form, result, [block], ["\n".join(_trained_notes(result))], records, said, _marks(records)))
    if plot is not None and any("iterations" in r for r in records):
        curves.iterations(plot, records, f"{table.name}, seeds {', '.join(map(str, result['seeds']))}")
        say(f"curve: {plot}")
    if all("missing" in r for r in records):
        raise DataError(f"no row of {table.name} could be run: {records[0]['missing']}")


def _print_episodes(result: dict[str, Any], path: Path, form: Format, plot: Path | None) -> None:
    from fewshot_cli.figures import curves
    from fewshot_cli.papers.evaluated import missing_everywhere

    records = result["records"]
    if form is Format.junit:
        text = _junit(result)
    else:
        block = (*_cells(result), ("on", "published %", "task"))
        text = in_format(form, result, [block], ["\n".join(_notes(result))], records, _best(result), _marks(records))
    emit(text, kept=str(path))
    if plot is not None and any("accuracy" in r for r in result["records"]):
        title = f"{result['table']} on {result['dataset']}, {result['episodes']} episodes"
        curves.curves(plot, result["records"], title)
        say(f"curve: {plot}")
    if (reason := missing_everywhere(result)) is not None:
        raise DataError(f"no row of {result['table']} could be run: {reason}")


def _marks(records: list[dict[str, Any]]) -> dict[tuple[int, int], Mark]:
    """Where LaTeX sets off the best of our values, and those as good; ours is the third column of every table."""
    return {(place, 2): record["standing"] for place, record in enumerate(records) if "standing" in record}


def _ran(result: dict[str, Any], ran: list[dict[str, Any]]) -> str:
    """How much of a table was run."""
    return f"{result['table']}: {len(ran)} of {len(result['records'])} results"


def _best(result: dict[str, Any]) -> str:
    """A table of few-shot accuracies in words: how much of it was run, and its best row at the first task."""
    ran = [r for r in result["records"] if "accuracy" in r]
    if not ran:
        return _ran(result, ran)
    way, shot = ran[0]["way"], ran[0]["shot"]
    best = max((r for r in ran if (r["way"], r["shot"]) == (way, shot)), key=lambda r: r["accuracy"])
    return (
        f"{_ran(result, ran)} on {result['dataset']}; best at {way}-way {shot}-shot: {best['row']}, "
        f"{plus_minus(best['accuracy'], best['ci95'])} %"
    )


# what a narrow terminal may do without, the least needed first
_TRAINED_LEAST = (
    "training/test time ÷ baseline",
    "iterations (spread)",
    "million multiply-adds (printed)",
    "million parameters (printed)",
    "least to largest",
    "measured",
)
_TRAINED_HEADER = [
    "row",
    "measured",
    "ours, median",
    "least to largest",
    "difference to baseline",
    "published",
    "million parameters (printed)",
    "million multiply-adds (printed)",
    "training/test time ÷ baseline",
    "iterations (spread)",
]


def _trained_cells(records: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    return _TRAINED_HEADER, [_trained_row(record) for record in records]


def _trained_row(r: dict[str, Any]) -> list[str]:
    if "missing" in r:
        return [r["row"], r["column"], "-", *[""] * 7]
    difference = f"{r['difference']:+.2f}" if "difference" in r else ""
    difference += f" ± {r['difference_ci95']:.2f}" if "difference_ci95" in r else ""
    costs = [
        f"{r[key]:,.2f}" + (f" ({r[f'printed_{key}']:,g})" if f"printed_{key}" in r else "")
        for key in ("parameters", "multiply_adds")
    ]
    return [
        r["row"],
        r["column"],
        f"{r['value']:.2f}",
        f"{min(r['values']):.2f} to {max(r['values']):.2f}" if len(r["values"]) > 1 else "",
        difference,
        f"{r['published']:.2f}" if r.get("published") else "",
        *costs,
        ", ".join(f"{r[key]:.2f}×" for key in ("training_over_first", "test_over_first") if key in r),
        f"{r['iterations']['mean']:.2f} ({r['iterations']['spread']:.2f})" if "iterations" in r else "",
    ]


def _trained_notes(result: dict[str, Any]) -> list[str]:
    missing: dict[str, list[str]] = {}
    for r in result["records"]:
        if "missing" in r:
            missing.setdefault(r["missing"], []).append(r["row"])
    return [
        f"{result['table']}: {result['title']}; published: {result['source']}",
        f"ours: seeds {', '.join(map(str, result['seeds']))}; difference: mean, {result['interval']}; "
        f"the first row of each network is its baseline; times measured in turns on {result['device']}; "
        f"the runs are in {result['run_dir']}",
        *(f"not run: {', '.join(dict.fromkeys(rows))}: {why}" for why, rows in missing.items()),
    ]


def _cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["method", "task", "ours %", f"difference to {result['reference']}", "published %", "on"]
    rows = []
    for r in result["records"]:
        ours = plus_minus(r["accuracy"], r["ci95"]) if "accuracy" in r else "-"
        difference = plus_minus(r["difference"], r["difference_ci95"], "+") if "difference" in r else ""
        printed = f"{r['published']:.2f}" if "published" in r else ""
        printed += f" ± {r['published_ci95']:.2f}" if "published_ci95" in r else ""
        rows.append(
            [r["row"], f"{r['way']}-way {r['shot']}-shot", ours, difference, printed, r.get("published_on", "")]
        )
    return header, rows


def _notes(result: dict[str, Any]) -> list[str]:
    missing: dict[str, list[str]] = {}
    for r in result["records"]:
        if "missing" in r:
            missing.setdefault(r["missing"], []).append(f"{r['row']} ({r['way']}-way {r['shot']}-shot)")
    alone = {
        f"{r['way']}-way {r['shot']}-shot": r["difference_missing"]
        for r in result["records"]
        if "difference_missing" in r
    }
    return [
        f"{result['table']}: {result['title']}; published: {result['source']}",
        f"ours: {result['base']}, {result['episodes']} episodes, the same for all rows; {result['interval']}"
        + (f"; the command of each row is in {result['run_dir']}" if result["run_dir"] else ""),
        *(f"no differences, {task}: {result['reference']} was not run: {why}" for task, why in alone.items()),
        *(f"not run: {', '.join(rows)}: {why}" for why, rows in missing.items()),
    ]


def _junit(result: dict[str, Any]) -> str:
    cases = []
    for r, cells in zip(result["records"], _cells(result)[1], strict=True):
        text = f"accuracy {cells[2]} %; published {cells[4] or '-'} {cells[5]}".strip()
        cases.append(
            JUnitCase(
                f"{cells[0]}, {cells[1]}",
                result["table"],
                r.get("seconds", 0.0),
                "" if "missing" in r else text,
                skipped=r.get("missing"),
            )
        )
    return junit(f"fsl table {result['table']}", cases)
