"""`fsl sweep`: many evaluations side by side on the same episodes, or a search of options on validation classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format, say_next, warn_not_converged
from fewshot_cli.errors import DataError, Exit, FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.latex import Mark
from fewshot_cli.runtime.render import Format, plus_minus

if TYPE_CHECKING:  # importing these would import pydantic for --help
    from fewshot_cli.laboratory.launch import Launcher
    from fewshot_cli.laboratory.plan import Cell
    from fewshot_cli.laboratory.schema import SweepSpec
    from fewshot_cli.laboratory.work import Outcome
    from fewshot_cli.runtime.processes import Processes


def sweep(
    file: Annotated[
        Path | None, typer.Argument(help="File of a sweep: recipe or cells, grid, seeds and baseline; or a search.")
    ] = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option("--recipe", "-r", autocompletion=o.recipe_names, help="Recipe of the cells; repeatable."),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=VALUE,…", help="A key, and the values to try; repeatable."),
    ] = None,
    solver: o.Solver = None,
    sets: o.Set = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", min=1, help="Episodes per cell, in place of the recipe's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, max=1000, help="Draws of the episodes for each cell (default: 1).")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Method to compare with, by its name in the table (default: the first)."),
    ] = None,
    ranks: Annotated[
        str,
        typer.Option("--ranks", metavar="<episodes|tasks>", help="Rank the methods on every episode, or every task."),
    ] = "episodes",
    figure: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", dir_okay=False, help="Draw mean ranks with the critical difference (PNG, SVG, PDF)."
        ),
    ] = None,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, Format.md, Format.csv, Format.latex)
    ] = Format.table,
    launcher: Annotated[
        str | None,
        typer.Option(
            "--launcher", metavar="<local|slurm>", help="Spread the cells over processes here, or over jobs of Slurm."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=10_000, help="With --launcher: jobs at a time.")] = 2,
    partition: Annotated[str | None, typer.Option("--partition", help="With --launcher slurm: its partition.")] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", metavar="KEY=VALUE", help="Further option of sbatch, such as gres=gpu:1; repeatable."),
    ] = None,
    device: o.Device = "auto",
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and stop.")] = False,
) -> None:
    """Evaluate every combination of recipes and settings on the same episodes, and compare them.

    Ends with accuracies, paired differences to a baseline, mean ranks, time and memory. A cell that cannot run says why
    and stops no other. Exit code 0 when all cells were evaluated, 1 when some could not be, 3 when none could be. A
    file with `search` tries options of training or evaluation instead, on validation classes (extra sweep).
    """
    from fewshot_cli.laboratory.launch import Launcher
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import Processes

    spec = _spec(file, recipes, grid, [*(sets or []), *o.as_sets({"solver": solver, "eval.episodes": episodes})], seeds)
    if ranks not in ("episodes", "tasks"):
        raise FslError(f"--ranks {ranks}: say episodes or tasks")
    launched = Launcher.of(launcher, jobs, partition, slurm or [], device)
    processes, root = Processes(resolve(device if launched is None else "cpu")), o.data_root(data_root)
    place = (_name(file, spec), run_dir, resume)
    if spec.search is not None:
        _refuse_for_search({"--launcher": launcher, "--baseline": baseline, "--out": figure, "--grid": grid})
        return _search(spec, place, root, processes, format, dry_run)
    return _sweep(spec, file, place, (baseline, ranks, figure), root, processes, launched, format, dry_run)


def _name(file: Path | None, spec: "SweepSpec") -> str:
    return file.stem if file is not None else Path(spec.recipe[0]).stem


def _spec(
    file: Path | None, recipes: list[str] | None, grid: list[str] | None, sets: list[str], seeds: int | None
) -> "SweepSpec":
    """What is asked for: the file's, with what the options add or replace."""
    from fewshot_cli.config import overrides
    from fewshot_cli.laboratory.plan import parse_grid
    from fewshot_cli.laboratory.schema import SweepSpec, load_sweep

    if file is None and not recipes:
        raise FslError("say what to sweep: a file (fsl sweep sweep.yaml), or --recipe NAME --grid KEY=VALUE,VALUE")
    spec = SweepSpec() if file is None else load_sweep(file)
    changed: dict[str, Any] = {"set": {**spec.set, **overrides.options(sets)}}
    changed["grid"] = {**spec.grid, **parse_grid(grid or [])}
    if recipes:
        changed["recipe"], changed["cells"] = tuple(recipes), ()
    if seeds is not None:
        changed["seeds"] = seeds
    return spec.model_copy(update=changed)


def _search(
    spec: "SweepSpec",
    place: tuple[str, Path | None, bool],
    root: Path,
    processes: "Processes",
    form: Format,
    dry_run: bool,
) -> None:
    """Run the trials of a search and print them, best first, with the command that evaluates the best."""
    from fewshot_cli.laboratory import search
    from fewshot_cli.runtime import runs

    assert spec.search is not None
    base, (name, run_dir, resume) = search.check(spec, spec.search), place
    recipe, _ = search.recipe_of(base, spec, {})
    if dry_run:
        return say(f"dry run: a search of {spec.search.trials} trials of {spec.search.verb} with {base} is in order")
    folder = runs.choose(run_dir, "sweep", name, resume)
    searched = spec.search.model_dump(mode="json", exclude={"trials"})  # more may be asked for later
    decided_by = {"search": searched, "recipe": recipe.identity(), "device": processes.device.type}
    run = runs.Run(folder, "search", recipe.resolved(), decided_by, resume)
    say(f"search of {spec.search.trials} trials in {folder}" + (", continued" if run.resumed else ""))
    result = search.run_search(base, spec, spec.search, folder, root, processes)
    if result["best"] is None:
        failed = next((r["failed"] for r in result["records"] if "failed" in r), "all were pruned")
        raise DataError(f"no trial gave a validation ({failed}); --resume --run-dir {folder} tries them again")
    run.finish(result)
    header = ["trial", *spec.search.space, "validation %", "epoch", "state"]
    rows = [_trial(r) for r in result["records"]]
    notes = [f"chosen on the split val of {recipe.store}; {result['sampler']}, seed {result['seed']}"]
    notes += [
        f"trial {r['trial']} failed: {r['failed']}; --resume tries it again" for r in result["records"] if "failed" in r
    ]
    flat = [{**{k: v for k, v in r.items() if k != "values"}, **r["values"]} for r in result["records"]]
    marks: dict[tuple[int, int], Mark] = {(0, len(header) - 3): "best"}
    emit(in_format(form, result, [(header, rows)], notes, flat, marks=marks), kept=str(folder))
    return say_next(search.command(result))


def _trial(r: dict[str, Any]) -> list[str]:
    accuracy = plus_minus(r["accuracy"], r["ci95"]) if "accuracy" in r else ""
    return [str(r["trial"]), *map(_value, r["values"].values()), accuracy, str(r.get("epoch", "")), r["state"]]


def _value(value: Any) -> str:
    from fewshot_cli.laboratory.plan import shown

    return f"{value:.4g}" if isinstance(value, float) else shown(value) if value is not None else ""


def _refuse_for_search(given: dict[str, Any]) -> None:
    for option, value in given.items():
        if value:
            raise FslError(f"{option}: a search has no such thing; leave it out, or remove `search` from the file")


def _sweep(
    spec: "SweepSpec",
    file: Path | None,
    place: tuple[str, Path | None, bool],
    compare: tuple[str | None, Any, Path | None],
    root: Path,
    processes: "Processes",
    launcher: "Launcher | None",
    form: Format,
    dry_run: bool,
) -> None:
    """Evaluate the cells, print the table, and leave with the code that says whether all could be."""
    from fewshot_cli.figures import canvas
    from fewshot_cli.laboratory.launch import evaluate
    from fewshot_cli.laboratory.plan import baseline_of, cells_of
    from fewshot_cli.laboratory.results import command, sweep_result

    cells = cells_of(spec, file.parent if file else None)
    (baseline, over, figure), (name, run_dir, resume) = compare, place
    base = baseline_of(cells, baseline or spec.baseline)
    if over == "tasks" and len({cell.task for cell in cells}) < 2:
        raise FslError("--ranks tasks: all cells are of one task; sweep two or more, or rank on episodes")
    if figure is not None:
        canvas.check(figure)
    if dry_run:
        return emit("\n".join(command(cell) for cell in cells))
    device = processes.device.type if launcher is None else launcher.device
    folder, run = _folder(cells, name, run_dir, resume, device)
    outcomes = evaluate(folder, cells, root, processes, launcher)
    result = sweep_result(folder, cells, outcomes, base, over)
    run.finish({**result, "records": [{k: v for k, v in r.items() if k != "memory"} for r in result["records"]]})
    emit(_in_format(form, result), kept=str(folder))
    if figure is not None:
        _draw(figure, result)
    warn_not_converged(sum(r.get("not_converged", 0) for r in result["records"]))
    return _leave(outcomes)


def _folder(cells: "list[Cell]", name: str, run_dir: Path | None, resume: bool, device: str) -> tuple[Path, Any]:
    """The sweep's folder, and its run, which only the same cells may continue."""
    from fewshot_cli.runtime import runs

    folder = runs.choose(run_dir, "sweep", name, resume)
    identity = {"cells": {c.folder: runs.fingerprint(c.recipe.identity()) for c in cells}}
    data = {"cells": [{"folder": c.folder, "recipe": c.base, "set": list(c.sets)} for c in cells]}
    run = runs.Run(folder, "sweep", data, {**identity, "device": device}, resume)
    say(f"sweep of {len(cells)} cells in {folder}" + (", continued" if run.resumed else ""))
    return folder, run


def _leave(outcomes: "dict[str, Outcome]") -> None:
    failed = [f"{name}: {one.failed}" for name, one in outcomes.items() if one.failed is not None]
    if len(failed) == len(outcomes):
        raise DataError(f"no cell could be evaluated: {failed[0]}")
    if failed:
        say(f"fsl: {len(failed)} of {len(outcomes)} cells could not be evaluated; --resume tries them again")
        raise typer.Exit(Exit.GATE)


def _draw(figure: Path, result: dict[str, Any]) -> None:
    from fewshot_cli.evaluation.comparisons import cliques
    from fewshot_cli.figures.ranks import critical_difference

    ranks = result["ranks"]
    if ranks is None:
        return say(f"note: {figure} was not drawn, since fewer than two methods can be ranked")
    alike = cliques(list(ranks["mean"].values()), ranks["critical_difference"])
    title = (
        f"mean ranks over {ranks['blocks']} {ranks['over']}, 1 is best; bars join what does not differ significantly"
    )
    critical_difference(figure, ranks["mean"], ranks["critical_difference"], alike, title)
    return say(f"figure: {figure}")


def _in_format(form: Format, result: dict[str, Any]) -> str:
    header, rows = _table(result)
    marks: dict[tuple[int, int], Mark] = {}
    for place, r in enumerate(result["records"]):
        if "standing" in r:
            marks[place, len(result["columns"])] = r["standing"]
    records = [_flat(r) for r in result["records"]]
    return in_format(form, result, [(header, rows)], _notes(result), records, marks=marks)


def _table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows; a column that is empty in every row is left out."""
    columns = result["columns"]
    header = [*columns, "accuracy %", "difference", "p", "rank", "embed s", "match s", "MB", "external data"]
    rows = [[str(r.get(column, "")) for column in columns] + _values(r) for r in result["records"]]
    used = [c for c in range(len(header)) if c <= len(columns) or any(row[c] for row in rows)]
    return [header[c] for c in used], [[row[c] for c in used] for row in rows]


def _values(r: dict[str, Any]) -> list[str]:
    if "failed" in r:
        return ["failed", *[""] * 7]
    return [
        plus_minus(r["accuracy"], r["ci95"]),
        plus_minus(r["difference"], r["difference_ci95"], "+") if "difference" in r else "",
        _p(r["p"]) if r.get("p") is not None else "",
        f"{r['rank']:.2f}" if "rank" in r else "",
        embedding if (embedding := f"{r['seconds']['embedding']:.1f}") != "0.0" else "",
        f"{r['seconds']['matching']:.1f}",
        f"{r['memory'] / 1e6:.0f}" if r["memory"] is not None else "",
        ", ".join(r["external"]),
    ]


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _flat(r: dict[str, Any]) -> dict[str, Any]:
    """A record for CSV: times in columns of their own, lists in one."""
    times = {f"{key} seconds": value for key, value in r.get("seconds", {}).items()}
    rest = {key: value for key, value in r.items() if key != "seconds"}
    return {key: "; ".join(v) if isinstance(v, list) else v for key, v in (rest | times).items()}


def _notes(result: dict[str, Any]) -> list[str]:
    common, counts, ranks = result["common"], result["episodes"], result["ranks"]
    task = f"{common['way']}-way {common['shot']}-shot, " if {"way", "shot"} <= set(common) else ""
    over = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"
    data = f"{common['dataset']}, " if "dataset" in common else ""
    notes = [f"{data}{task}{over} episodes per row, seeds {', '.join(map(str, result['seeds']))}; {result['interval']}"]
    if any("difference" in r for r in result["records"]):
        notes.append(f"difference to {result['baseline']} on the same episodes; {result['corrected']}")
    if ranks is not None:
        friedman = ranks["friedman"]
        test = f"; Friedman's test: χ² {friedman['statistic']:.1f}, p {_p(friedman['p'])}" if friedman else ""
        notes.append(
            f"ranks: mean over {ranks['blocks']} {ranks['over']}, 1 is best; two differ significantly if they "
            f"are at least {ranks['critical_difference']:.2f} apart (Nemenyi, 5 %){test}"
        )
    failed: dict[str, list[str]] = {}
    for r in result["records"]:
        if "failed" in r:
            failed.setdefault(r["failed"], []).append(", ".join(str(r[column]) for column in result["columns"]))
    return [*notes, *(f"failed: {'; '.join(names)}: {why}" for why, names in failed.items())]
