"""`fsl table`: a paper's table, ours beside the printed values, with paired differences."""

import json
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree as ET

import typer

from fewshot_cli.commands import options as o
from fewshot_cli.console import emit, say
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.report import Format, as_csv, grid, markdown

_OWN = ("head", "head.name", "extractor", "extractor.name", "episode.way", "episode.shot", "eval.episodes")


def _tables(incomplete: str) -> list[str]:
    from fewshot_cli.tables import names

    return [name for name in names() if name.startswith(incomplete)]


def table(
    name: Annotated[str, typer.Argument(autocompletion=_tables, help="deepemd.T1, .T2, .T3, .Fig4 or .grid.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", autocompletion=o.names_of("datasets"), help="Dataset to run the rows on.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="A 1-shot recipe in place of the dataset's.")
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--rows", help="Only rows whose name holds this; repeatable.")
    ] = None,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Episodes of every row.")] = 600,
    weights: o.Weights = None,
    solver: o.Solver = None,
    sets: o.Set = None,
    format: Annotated[Format, typer.Option("--format", help="Format of the result on stdout.")] = Format.table,
    plot: Annotated[
        Path | None, typer.Option("--plot", dir_okay=False, help="Draw accuracy over shots (PNG, SVG or PDF).")
    ] = None,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
    debug: o.Debug = False,
) -> None:
    """Run every row of a paper's table on the same episodes and print ours, the published value and the difference."""
    from fewshot_cli import plots, runs, tables
    from fewshot_cli.device import resolve

    found = tables.find(name)
    if (dataset is None) == (recipe is None):
        raise FslError("give --dataset NAME, or --recipe with a 1-shot recipe, to say what the table is run on")
    if plot is not None and len({c["shot"] for c in found["columns"]}) < 3:
        raise FslError(f"--plot draws accuracy over shots, and {name} has too few; leave it out or take deepemd.Fig4")
    if plot is not None:
        plots.check(plot)
    for word in sets or []:
        if word.partition("=")[0].strip() in _OWN:
            raise FslError(f"--set {word}: the rows of a table set this themselves; leave it out, or use `fsl eval`")
    base = recipe or tables.recipe_for(dataset, weights)
    ask = tables.Request(base, tuple(sets or ()), solver, seed, episodes, tuple(rows or ()), weights, o.data_root(data_root),
                         resolve(device))  # fmt: skip
    path = runs.choose(run_dir, "table", f"{name}-{Path(base).stem}", resume)
    result = tables.run(found, ask, path, resume)
    emit(_rendered(result, format), kept=str(path))
    if plot is not None and any("accuracy" in r for r in result["records"]):
        plots.curves(plot, result["records"], f"{name} on {result['dataset']}, {episodes} episodes")
        say(f"curve: {plot}")
    if (reason := tables.missing_everywhere(result)) is not None:
        raise DataError(f"no row of {name} could be run: {reason}")


def _cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["method", "task", "ours %", f"minus {result['reference']}", "published %", "on"]
    rows = []
    for r in result["records"]:
        ours = f"{r['accuracy']:.2f} ± {r['ci95']:.2f}" if "accuracy" in r else "-"
        apart = f"{r['difference']:+.2f} ± {r['difference_ci95']:.2f}" if "difference" in r else ""
        printed = f"{r['published']:.2f}" if "published" in r else ""
        printed += f" ± {r['published_ci95']:.2f}" if "published_ci95" in r else ""
        rows.append([r["row"], f"{r['way']}-way {r['shot']}-shot", ours, apart, printed, r.get("published_on", "")])
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
    return [f"{result['table']}: {result['title']}; published: {result['source']}",
            f"ours: {result['base']}, {result['episodes']} episodes, the same for all rows; {result['interval']}"
            + (f"; the run directory {result['run_dir']} holds each row's command" if result["run_dir"] else ""),
            *(f"no differences, {task}: {result['reference']} was not run: {why}" for task, why in alone.items()),
            *(f"not run: {', '.join(rows)}: {why}" for why, rows in missing.items())]  # fmt: skip


def _rendered(result: dict[str, Any], form: Format) -> str:
    if form is Format.json:
        return json.dumps(result, indent=2)
    if form is Format.csv:
        return as_csv(result["records"])
    if form is Format.junit:
        return _junit(result)
    draw = markdown if form is Format.md else grid
    return "\n\n".join([draw(*_cells(result)), "\n".join(_notes(result))])


def _junit(result: dict[str, Any]) -> str:
    records = result["records"]
    suite = ET.Element("testsuite", name=f"fsl table {result['table']}", tests=str(len(records)), failures="0", errors="0",
                       skipped=str(sum("missing" in r for r in records)))  # fmt: skip
    for r, cells in zip(records, _cells(result)[1], strict=True):
        case = ET.SubElement(suite, "testcase", classname=result["table"], name=f"{cells[0]}, {cells[1]}",
                             time=f"{r.get('seconds', 0):.3f}")  # fmt: skip
        if "missing" in r:
            ET.SubElement(case, "skipped", message=r["missing"])
        else:
            ET.SubElement(
                case, "system-out"
            ).text = f"accuracy {cells[2]} %; published {cells[4] or '-'} {cells[5]}".strip()
    ET.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode")
