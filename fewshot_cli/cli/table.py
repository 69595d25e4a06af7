"""`fsl table`: a paper's table, ours beside the printed values, with paired differences."""

import json
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree as ET

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format, as_csv, grid, markdown

_OWN = ("head", "head.name", "extractor", "extractor.name", "episode.way", "episode.shot", "eval.episodes")
_TRAINED_OWN = ("pretrain.classifier", "backbone", "dataset.name", "dataset", "solver", "seed", "eval.protocol")


def _tables(incomplete: str) -> list[str]:
    from fewshot_cli.papers.catalog import table_names

    return [name for name in table_names() if name.startswith(incomplete)]


def table(
    name: Annotated[
        str,
        typer.Argument(
            autocompletion=_tables, help="deepemd.T1, .T2, .T3, .Fig4, .grid; mpw.T1 to .T5, .Fig2; lsc.T1 to .T6."
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", autocompletion=o.names_of("datasets"), help="Dataset to run the rows on.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="A 1-shot recipe in place of the dataset's.")
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option("--rows", help="Only the row of this name, else rows whose names hold it; repeatable."),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", min=1, help="Episodes of every row (default: 600, of lsc.* 2000).")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", min=1, max=1000, help="Seeds that every row of a trained table is trained with (default: 5)."
        ),
    ] = None,
    weights: o.Weights = None,
    solver: o.Solver = None,
    sets: o.Set = None,
    format: Annotated[Format, typer.Option("--format", help="Format of the result on stdout.")] = Format.table,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", dir_okay=False, help="Draw accuracy over shots, or iterations over epochs (PNG, SVG, PDF)."
        ),
    ] = None,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
) -> None:
    """Run every row of a paper's table and print ours, the published value and the difference.

    The rows of deepemd.* are evaluated on the same episodes, those of lsc.* meta-trained before; those of mpw.* are
    trained over several seeds. Where rows are trained the same command goes on where it was stopped, and tables share
    what they can.
    """
    from fewshot_cli.figures import canvas, curves
    from fewshot_cli.papers import evaluated
    from fewshot_cli.papers.catalog import find_table
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.device import resolve

    found = find_table(name)
    meta = found.get("metatrained", False)
    if resume and (meta or found.get("trained")):
        raise FslError(f"--resume: {name} continues by itself what is in its run directory; leave it out")
    if found.get("trained"):
        given = {"--dataset": dataset, "--recipe": recipe, "--episodes": episodes, "--weights": weights}
        for option, value in given.items():
            if value is not None:
                raise FslError(
                    f"{option}: the rows of {name} are trained on the paper's data by recipes of "
                    "their own; leave it out"
                )
        return _trained(found, seeds, sets, solver, rows, plot, format, device, seed, data_root, run_dir)
    if seeds is not None:
        raise FslError(f"--seeds: the rows of {name} are evaluated, not trained; --seed chooses their episodes")
    episodes = episodes or (2000 if meta else 600)
    if meta and (recipe is not None or dataset is None):
        raise FslError(
            f"the rows of {name} are meta-trained by recipes of their own; give --dataset {found['home']} or another"
        )
    if (dataset is None) == (recipe is None):
        raise FslError("give --dataset NAME, or --recipe with a 1-shot recipe, to say what the table is run on")
    if plot is not None and len({c["shot"] for c in found["columns"]}) < 3:
        raise FslError(f"--plot draws accuracy over shots, and {name} has too few; leave it out or take deepemd.Fig4")
    if plot is not None:
        canvas.check(plot)
    _refuse(sets, _OWN, "eval")
    base = dataset if meta else recipe or evaluated.recipe_for(dataset, weights)
    common = (
        base,
        tuple(sets or ()),
        solver,
        seed,
        episodes,
        tuple(rows or ()),
        weights,
        o.data_root(data_root),
        resolve(device),
    )
    if meta:
        from fewshot_cli.papers.metatrained import Request

        ask = Request(*common, found["recipe"], found["columns"][0]["shot"])
        path = (run_dir or Path("runs") / "table" / "lsc" / dataset) / name
        result = evaluated.run(found, ask, path, (path / runs.CONFIG).exists())
    else:
        ask = evaluated.Request(*common)
        path = runs.choose(run_dir, "table", f"{name}-{Path(base).stem}", resume)
        result = evaluated.run(found, ask, path, resume)
    emit(_rendered(result, format), kept=str(path))
    if plot is not None and any("accuracy" in r for r in result["records"]):
        curves.curves(plot, result["records"], f"{name} on {result['dataset']}, {episodes} episodes")
        say(f"curve: {plot}")
    if (reason := evaluated.missing_everywhere(result)) is not None:
        raise DataError(f"no row of {name} could be run: {reason}")


def _refuse(sets: list[str] | None, own: tuple[str, ...], verb: str) -> None:
    """Refuse `--set` of what the rows of a table set themselves."""
    for word in sets or []:
        if word.partition("=")[0].strip() in own:
            raise FslError(f"--set {word}: the rows of a table set this themselves; leave it out, or use `fsl {verb}`")


def _trained(found, seeds, sets, solver, rows, plot, form: Format, device, seed, data_root, run_dir) -> None:  # noqa: ANN001
    from fewshot_cli.figures import canvas, curves
    from fewshot_cli.papers import trained
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import World

    name = found["name"]
    if form is Format.junit:
        raise FslError(f"--format junit: {name} has no test to report; take table, json, md or csv")
    if plot is not None and name != "mpw.Fig2":
        raise FslError(f"--plot draws the iterations of the solver over training, and {name} has others; take mpw.Fig2")
    if plot is not None:
        canvas.check(plot)
    _refuse(sets, _TRAINED_OWN, "pretrain")
    first = 1 if seed is None else seed
    ask = trained.Request(
        tuple(sets or ()),
        solver,
        tuple(range(first, first + (seeds or 5))),
        tuple(rows or ()),
        o.data_root(data_root),
        World(resolve(device)),
    )
    path = run_dir or Path("runs") / "table" / name.partition(".")[0]
    result = trained.run(found, ask, path)
    records = result["records"]
    if form is Format.json:
        emit(json.dumps(result, indent=2))
    elif form is Format.csv:
        emit(as_csv(records))
    else:
        draw = markdown if form is Format.md else grid
        emit("\n\n".join([draw(*_trained_cells(records)), "\n".join(_trained_notes(result))]))
    if plot is not None and any("iterations" in r for r in records):
        curves.iterations(plot, records, f"{name}, seeds {', '.join(map(str, result['seeds']))}")
        say(f"curve: {plot}")
    if all("missing" in r for r in records):
        raise DataError(f"no row of {name} could be run: {records[0]['missing']}")


def _trained_cells(records: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = [
        "row",
        "measured",
        "ours, median",
        "least to largest",
        "minus the first",
        "published",
        "million parameters (printed)",
        "million multiply-adds (printed)",
        "training, test over the first",
        "iterations (spread)",
    ]
    lines = []
    for r in records:
        if "missing" in r:
            lines.append([r["row"], r["column"], "-", *[""] * 7])
            continue
        apart = f"{r['difference']:+.2f}" if "difference" in r else ""
        apart += f" ± {r['difference_ci95']:.2f}" if "difference_ci95" in r else ""
        span = f"{min(r['values']):.2f} to {max(r['values']):.2f}" if len(r["values"]) > 1 else ""
        costs = [
            f"{r[k]:,.2f}" + (f" ({r[f'printed_{k}']:,g})" if f"printed_{k}" in r else "")
            for k in ("parameters", "multiply_adds")
        ]
        ratios = ", ".join(f"{r[k]:.2f}×" for k in ("training_over_first", "test_over_first") if k in r)
        steps = f"{r['iterations']['mean']:.2f} ({r['iterations']['spread']:.2f})" if "iterations" in r else ""
        lines.append(
            [
                r["row"],
                r["column"],
                f"{r['value']:.2f}",
                span,
                apart,
                f"{r['published']:.2f}" if r.get("published") else "",
                *costs,
                ratios,
                steps,
            ]
        )
    return header, lines


def _trained_notes(result: dict[str, Any]) -> list[str]:
    missing: dict[str, list[str]] = {}
    for r in result["records"]:
        if "missing" in r:
            missing.setdefault(r["missing"], []).append(r["row"])
    return [
        f"{result['table']}: {result['title']}; published: {result['source']}",
        f"ours: seeds {', '.join(map(str, result['seeds']))}; difference: mean, {result['interval']}; "
        "the first of a network's rows is "
        f"its baseline; times in turns on {result['device']}; {result['run_dir']} holds the runs",
        *(f"not run: {', '.join(dict.fromkeys(rows))}: {why}" for why, rows in missing.items()),
    ]


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
    return [
        f"{result['table']}: {result['title']}; published: {result['source']}",
        f"ours: {result['base']}, {result['episodes']} episodes, the same for all rows; {result['interval']}"
        + (f"; the run directory {result['run_dir']} holds each row's command" if result["run_dir"] else ""),
        *(f"no differences, {task}: {result['reference']} was not run: {why}" for task, why in alone.items()),
        *(f"not run: {', '.join(rows)}: {why}" for why, rows in missing.items()),
    ]


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
    suite = ET.Element(
        "testsuite",
        name=f"fsl table {result['table']}",
        tests=str(len(records)),
        failures="0",
        errors="0",
        skipped=str(sum("missing" in r for r in records)),
    )
    for r, cells in zip(records, _cells(result)[1], strict=True):
        case = ET.SubElement(
            suite,
            "testcase",
            classname=result["table"],
            name=f"{cells[0]}, {cells[1]}",
            time=f"{r.get('seconds', 0):.3f}",
        )
        if "missing" in r:
            ET.SubElement(case, "skipped", message=r["missing"])
        else:
            ET.SubElement(
                case, "system-out"
            ).text = f"accuracy {cells[2]} %; published {cells[4] or '-'} {cells[5]}".strip()
    ET.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode")
