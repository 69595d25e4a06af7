"""`fsl profile`: time, memory, exactness and time complexity of solvers, side by side."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import TableFormat as Form
from fewshot_cli.runtime.render import as_csv, grid, markdown


def profile(
    solver: Annotated[
        str | None,
        typer.Option(
            "--solver",
            autocompletion=o.names_of("solvers"),
            help="Solvers, separated by commas; without it, all that work here.",
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Nodes a side, separated by commas; NxM for different sides.")
    ] = "9,13,25,36,49,64,100",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Problems in one call (375: one 5-way episode).")] = 375,
    step: Annotated[
        bool,
        typer.Option("--step", help="In place of solvers: where the time of the recipe's training steps goes."),
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="Take features of this recipe; without it they are invented."),
    ] = None,
    weights: o.Weights = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SOLVER.KEY=VALUE", help="Option of a solver (with --step: of the recipe)."),
    ] = None,
    backward: Annotated[bool, typer.Option("--backward/--forward", help="Time the gradient as well.")] = True,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed calls of each; the median counts.")] = 7,
    budget: Annotated[float, typer.Option("--budget", min=0.01, help="Seconds for one solver at one size.")] = 20.0,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", dir_okay=False, help="Log-log plot to this .png, .svg or .pdf."),
    ] = None,
    format: Annotated[Form, typer.Option("--format", help="Format of the result on stdout.")] = Form.table,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Threads of solvers on the CPU; 0 means all.")] = 1,
    device: o.Device = "auto",
    data_root: o.DataRoot = None,
    debug: o.Debug = False,
) -> None:
    """Measure solvers over sizes: problems a second, memory, exactness, and the exponent their time grows with."""
    from fewshot_cli.figures.canvas import check
    from fewshot_cli.figures.curves import complexity
    from fewshot_cli.profiling import solvers as measuring
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.device import resolve

    where = resolve(device)
    if step:
        return _steps(recipe or o.DEFAULT_RECIPE, solver, sets, rounds, threads, where, format)
    try:
        wanted = list(dict.fromkeys(measuring.parse_sizes(sizes)))
    except ValueError as fault:
        raise FslError(f"--sizes {sizes}: write whole numbers above zero, as in 9,25,49x25 ({fault})") from fault
    if plot is not None:
        check(plot)
    solvers = _solvers(solver, sets or [], threads)
    make, source = _source(recipe, weights, o.data_root(data_root), where)
    settings = measuring.Settings(batch, rounds, backward, budget)
    records = measuring.measure(solvers, wanted, make, where, settings, lambda size: say(f"measuring {size} …"))
    result = {
        "format": 1,
        "features": source,
        "device": str(where),
        "threads": threads,
        "batch": batch,
        "rounds": rounds,
        "records": records,
        "fits": measuring.fits(records, solvers),
        "versions": runs.versions(),
    }
    if plot is not None:
        complexity(plot, records, result["fits"], f"Transport solvers on {where}, {source}")
        say(f"plot: {plot}")
    emit(_rendered(result, format))


def _steps(
    recipe: str, solver: str | None, sets: list[str] | None, rounds: int, threads: int, where, form: Form
) -> None:  # noqa: ANN001
    import torch

    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.profiling.steps import profile_steps
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.processes import World

    loaded = load_recipe(recipe, sets, solver)
    if threads:
        torch.set_num_threads(threads)
    records = profile_steps(loaded, World(where), rounds)
    result = {
        "format": 1,
        "recipe": loaded.name,
        "device": str(where),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "records": records,
        "versions": runs.versions(),
    }
    if form is Form.json:
        return emit(json.dumps(result, indent=2))
    flat = [
        {"stage": r["stage"], "part": part, "ms": 1e3 * s, "share": s / r["seconds"]}
        for r in records
        for part, s in r["parts"].items()
    ]
    if form is Form.csv:
        return emit(as_csv(flat))
    rows = [[x["stage"], x["part"], f"{x['ms']:.2f}", f"{100 * x['share']:.1f} %"] for x in flat]
    notes = [
        f"{r['stage']}: {r['pictures']} pictures in {1e3 * r['seconds']:.1f} ms, "
        f"{r['pictures_per_second']:,.0f} a second, "
        f"{r['share']:.2f} of the bare backbone's forward and backward"
        for r in records
    ]
    draw = markdown if form is Form.md else grid
    return emit("\n\n".join([draw(["stage", "part of the step", "ms", "share"], rows), "\n".join(notes)]))


def _solvers(names: str | None, sets: list[str], threads: int) -> dict[str, Any]:
    import torch

    from fewshot_cli import registry
    from fewshot_cli.config import strict_yaml
    from fewshot_cli.config.load import validate_options
    from fewshot_cli.config.parts import build_solver
    from fewshot_cli.config.schema import PartSpec

    chosen = [name.strip() for name in names.split(",")] if names else registry.working_solvers()
    own: dict[str, dict[str, Any]] = {name: {} for name in chosen}
    for word in sets:
        place, _, value = word.partition("=")
        name, _, key = place.partition(".")
        if name not in own or not key or not value:
            raise FslError(f"--set {word}: write SOLVER.KEY=VALUE with a measured solver, one of {', '.join(own)}")
        own[name][key] = strict_yaml.scalar(value)
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    built = {}
    for name, options in own.items():
        model = registry.solver(name).Options
        if "workers" in model.model_fields:
            options.setdefault("workers", threads)
        built[name] = build_solver(PartSpec(name=name, options=validate_options(model, options, f"--set {name}")))
    return built


def _source(recipe: str | None, weights: Path | None, root: Path, device) -> tuple[Any, str]:  # noqa: ANN001
    """The maker of problems, and what to call its features."""
    from fewshot_cli.profiling import problems

    if recipe is None:
        if weights is not None:
            raise FslError("--weights needs --recipe, whose backbone they fill")
        return problems.generated, "invented features"
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.evaluation.model import Model
    from fewshot_cli.runtime.processes import World

    model = Model.open(load_recipe(recipe), root, World(device), weights)
    features, labels = model.features(), model.split.labels

    def make(n: int, m: int, batch: int, seed: int) -> problems.Problems:
        return problems.from_features(features, labels, n, m, batch, seed)

    return make, f"features of {model.recipe.name}"


def _rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = [
        "solver",
        "n×m",
        "batch",
        "problems/s",
        "µs a problem",
        "with gradient",
        "ms an episode",
        "overhead µs",
        "peak MB",
        "relative gap",
        "gradient error (cost, weights)",
        "iterations",
    ]
    rows = []
    for r in result["records"]:
        if "skipped" in r:
            rows.append([r["solver"], f"{r['n']}×{r['m']}", "left out", *["-"] * 9])
            continue
        ratio = f"{r['gradient_over_forward']:.2f}×" if "gradient_over_forward" in r else "-"
        errors = "/".join(_short(r[key], "{:.0e}") for key in ("cost_gradient_error", "weight_gradient_error"))
        gap = _short(r["relative_gap"], "{:.0e}") + (f" ({r['not_converged']} gave up)" if r["not_converged"] else "")
        rows.append(
            [
                r["solver"],
                f"{r['n']}×{r['m']}",
                r["batch"],
                f"{r['problems_per_second']:,.0f}",
                f"{1e6 * r['seconds']:,.1f}",
                ratio,
                f"{375e3 * r['seconds']:,.1f}",
                _short(r["call_overhead_seconds"], "{:.0f}", 1e6),
                _short(r["peak_bytes"], "{:.1f}", 1e-6),
                gap,
                errors,
                _short(r["iterations"], "{:.1f}"),
            ]
        )
    return header, rows


def _short(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else form.format(unit * value)


def _fit_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for fit in result["fits"]:
        measured = (
            f"n^{fit['exponent']:.2f} ± {fit['standard_error']:.2f}" if "exponent" in fit else "needs three sizes"
        )
        span = f"{fit['from']:.0f}…{fit['to']:.0f}" if "exponent" in fit else "-"
        rows.append([fit["solver"], result["device"], measured, span, fit["theory"]])
    return ["solver", "device", "measured", "n from … to", "in the literature"], rows


def _rendered(result: dict[str, Any], form: Form) -> str:
    if form is Form.json:
        return json.dumps(result, indent=2)
    if form is Form.csv:
        return as_csv(result["records"])
    draw = markdown if form is Form.md else grid
    left_out = dict.fromkeys(
        [f"{r['solver']} left out: {r['skipped']}" for r in result["records"] if "skipped" in r]
        + [
            f"{r['solver']} without gradient: {r['gradient_failed']}"
            for r in result["records"]
            if "gradient_failed" in r
        ]
    )
    return "\n\n".join(
        [
            draw(*_rows(result)),
            draw(*_fit_rows(result)),
            *left_out,
            f"features: {result['features']}; medians of "
            f"{result['rounds']} rounds, solvers in turn; an episode is 375 problems",
        ]
    )
