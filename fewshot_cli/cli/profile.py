"""`fsl profile`: time, memory, exactness and complexity of solvers side by side, or the parts of a training step."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format

if TYPE_CHECKING:
    import torch


def profile(
    solver: Annotated[
        str | None,
        typer.Option(
            "--solver",
            metavar="NAMES",
            autocompletion=o.names_of("solvers"),
            help="Solvers, separated by commas (default: all that work here).",
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Nodes per side, separated by commas; NxM for different sides.")
    ] = "9,13,25,36,49,64,100",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Problems per call (375: one 5-way episode).")] = 375,
    step: Annotated[
        bool,
        typer.Option("--step", help="Instead of solvers, measure the parts of the recipe's training steps."),
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", "-r", metavar="NAME", help="Take the features from this recipe (default: synthetic features)."
        ),
    ] = None,
    weights: o.Weights = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SOLVER.KEY=VALUE", help="Option of a solver (with --step: KEY=VALUE of the recipe)."
        ),
    ] = None,
    backward: Annotated[bool, typer.Option("--backward/--forward", help="Also time the gradient.")] = True,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder",
            help="Measure approximate solvers at several accuracies; --out then draws the error over the time.",
        ),
    ] = False,
    rounds: Annotated[
        int,
        typer.Option("--rounds", rich_help_panel=o.RARELY, min=1, help="Timed calls of each; the median is reported."),
    ] = 7,
    budget: Annotated[
        float,
        typer.Option(
            "--budget", rich_help_panel=o.RARELY, min=0.01, help="Seconds to spend on one solver at one size."
        ),
    ] = 20.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            "--plot",
            dir_okay=False,
            rich_help_panel=o.RESULT,
            help="Draw the time of each solver over size, with --ladder the error over time (PNG, SVG or PDF).",
        ),
    ] = None,
    format: Annotated[Format, o.format_option(Format.table, Format.json, Format.md, Format.csv)] = Format.table,
    threads: Annotated[
        int,
        typer.Option("--threads", rich_help_panel=o.MACHINE, min=0, help="CPU threads of the solvers; 0 means all."),
    ] = 1,
    device: o.Device = "auto",
    data_root: o.DataRoot = None,
) -> None:
    """Measure solvers over sizes: problems per second, memory, exactness, and the exponent their time grows with."""
    from fewshot_cli.profiling.solvers import Settings
    from fewshot_cli.runtime.device import resolve

    chosen_device = resolve(device)
    if out is not None or ladder:
        _check_options(out, ladder, step)
    if step:
        result = _measure_steps(recipe or o.DEFAULT_RECIPE, solver, sets, rounds, threads, chosen_device)
        return emit(_steps_in_format(result, format))
    sides = _sizes(sizes)
    solvers = _solvers(solver, sets or [], threads, ladder)
    make, features = _source(recipe, weights, o.data_root(data_root), chosen_device)
    settings = Settings(batch, rounds, backward, budget)
    result = _measure_solvers(solvers, sides, make, features, settings, threads, chosen_device)
    if out is not None:
        _draw(out, ladder, result, f"Transport solvers on {chosen_device}, {features}")
    return emit(_solvers_in_format(result, format))


def _check_options(out: Path | None, ladder: bool, step: bool) -> None:
    """Refuse what does not go together, and a figure that cannot be drawn, before anything is measured."""
    from fewshot_cli.figures.canvas import check

    if step and ladder:
        raise FslError("--ladder is for solvers, which --step does not measure; leave out one of them")
    if step:
        raise FslError(
            "--out draws the time of solvers over size, which --step does not measure; leave out one of them"
        )
    if out is not None:
        check(out)


def _draw(out: Path, ladder: bool, result: dict[str, Any], title: str) -> None:
    from fewshot_cli.figures import curves

    if ladder:
        curves.frontier(out, result["records"], title)
    else:
        curves.complexity(out, result["records"], result["fits"], title)
    say(f"figure: {out}")


# Solvers


def _sizes(text: str) -> list[tuple[int, int]]:
    """`--sizes`: pairs of sides in the order given, each once."""
    from fewshot_cli.profiling.solvers import parse_sizes

    try:
        return list(dict.fromkeys(parse_sizes(text)))
    except ValueError as error:
        raise FslError(f"--sizes {text}: write whole numbers above zero, as in 9,25,49x25 ({error})") from error


def _solvers(names: str | None, sets: list[str], threads: int, ladder: bool) -> dict[str, Any]:
    """The solvers to measure, by name, with their `--set` options and number of threads."""
    import torch

    from fewshot_cli import registry
    from fewshot_cli.config.load import validate_options
    from fewshot_cli.config.parts import build_solver
    from fewshot_cli.config.schema import PartSpec
    from fewshot_cli.profiling.solvers import rungs

    chosen = [name.strip() for name in names.split(",")] if names else registry.working_solvers()
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    built: dict[str, Any] = {}
    for name, options in _options_by_solver(chosen, sets).items():
        model = registry.solver(name).Options
        if "workers" in model.model_fields:
            options.setdefault("workers", threads)
        made = build_solver(PartSpec(name=name, options=validate_options(model, options, f"--set {name}")))
        built |= rungs(name, made) if ladder else {name: made}
    return built


def _options_by_solver(solvers: list[str], sets: list[str]) -> dict[str, dict[str, Any]]:
    from fewshot_cli.config import overrides

    options: dict[str, dict[str, Any]] = {name: {} for name in solvers}
    for text in sets:
        place, value = overrides.parse(text)
        name, _, key = place.partition(".")
        if name not in options or not key:
            raise FslError(f"--set {text}: write SOLVER.KEY=VALUE with a measured solver, one of {', '.join(options)}")
        options[name][key] = value
    return options


def _source(recipe: str | None, weights: Path | None, root: Path, device: "torch.device") -> tuple[Any, str]:
    """The function that makes problems, and a name for its features."""
    from fewshot_cli.profiling import problems

    if recipe is None:
        if weights is not None:
            raise FslError("--weights needs --recipe, whose backbone uses them")
        return problems.generated, "invented features"
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.evaluation.model import Model
    from fewshot_cli.runtime.processes import Processes

    model = Model.open(load_recipe(recipe), root, Processes(device), weights)
    features, labels = model.features(), model.split.labels

    def make(n: int, m: int, batch: int, seed: int) -> problems.Problems:
        return problems.from_features(features, labels, n, m, batch, seed)

    return make, f"features of {model.recipe.name}"


def _measure_solvers(
    solvers: dict[str, Any],
    sides: list[tuple[int, int]],
    make: Any,
    features: str,
    settings: Any,
    threads: int,
    device: "torch.device",
) -> dict[str, Any]:
    from fewshot_cli.profiling import solvers as measuring
    from fewshot_cli.runtime import runs

    records = measuring.measure(solvers, sides, make, device, settings, lambda size: say(f"measuring {size} …"))
    return {
        "format": 1,
        "features": features,
        "device": str(device),
        "threads": threads,
        "batch": settings.batch,
        "rounds": settings.rounds,
        "records": records,
        "fits": measuring.fits(records, solvers),
        "versions": runs.versions(),
    }


def _solvers_in_format(result: dict[str, Any], form: Format) -> str:
    records = result["records"]
    left_out = [f"{r['solver']} left out: {r['skipped']}" for r in records if "skipped" in r]
    failed = [f"{r['solver']} without gradient: {r['gradient_failed']}" for r in records if "gradient_failed" in r]
    legend = (
        f"features: {result['features']}; medians of {result['rounds']} rounds, solvers in turn; "
        "an episode is 375 problems"
    )
    notes = [*dict.fromkeys(left_out + failed), legend]
    solvers = (*_solver_rows(result), _LEAST)
    return in_format(form, result, [solvers, _fit_rows(result)], notes, records, _fastest(records))


def _fastest(records: list[dict[str, Any]]) -> str:
    """The result in words: the fastest solver at the largest size that it was measured at."""
    measured = [r for r in records if "problems_per_second" in r]
    if not measured:
        return "no solver could be measured"
    most = max((r["n"], r["m"]) for r in measured)
    first, *others = sorted((r for r in measured if (r["n"], r["m"]) == most), key=lambda r: -r["problems_per_second"])
    said = f"fastest at {first['n']}×{first['m']}: {first['solver']}, {first['problems_per_second']:,.0f} problems/s"
    if others:
        times = first["problems_per_second"] / others[0]["problems_per_second"]
        said += f", {times:.3g} times {others[0]['solver']}"
    return said


# what a narrow terminal may do without, the least needed first
_LEAST = (
    "overhead µs",
    "gradient error (cost, weights)",
    "iterations",
    "batch",
    "ms per episode",
    "µs per problem",
    "peak MB",
    "relative gap",
)
_SOLVER_HEADER = [
    "solver",
    "n×m",
    "batch",
    "problems/s",
    "µs per problem",
    "with gradient",
    "ms per episode",
    "overhead µs",
    "peak MB",
    "relative gap",
    "certified gap",
    "gradient error (cost, weights)",
    "iterations",
]


def _solver_rows(result: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    rows: list[list[Any]] = []
    for r in result["records"]:
        if "skipped" in r:
            rows.append([r["solver"], f"{r['n']}×{r['m']}", "left out", *["-"] * 10])
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
                _short(r["certified_gap"], "{:.0e}"),
                errors,
                _short(r["iterations"], "{:.1f}"),
            ]
        )
    return _SOLVER_HEADER, rows


def _short(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else form.format(unit * value)


def _fit_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for fit in result["fits"]:
        measured = f"n^{fit['exponent']:.2f} ± {fit['exponent_ci95']:.2f}" if "exponent" in fit else "needs three sizes"
        span = f"{fit['from']:.0f}…{fit['to']:.0f}" if "exponent" in fit else "-"
        rows.append([fit["solver"], result["device"], measured, span, fit["theory"]])
    return ["solver", "device", "measured ± 95 %", "n from … to", "in the literature"], rows


# Training steps


def _measure_steps(
    recipe: str, solver: str | None, sets: list[str] | None, rounds: int, threads: int, device: "torch.device"
) -> dict[str, Any]:
    import torch

    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.profiling.steps import profile_steps
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.processes import Processes

    loaded = load_recipe(recipe, sets, solver)
    if threads:
        torch.set_num_threads(threads)
    return {
        "format": 1,
        "recipe": loaded.name,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "records": profile_steps(loaded, Processes(device), rounds),
        "versions": runs.versions(),
    }


def _steps_in_format(result: dict[str, Any], form: Format) -> str:
    parts = [
        {"stage": r["stage"], "part": part, "ms": 1e3 * seconds, "share": seconds / r["seconds"]}
        for r in result["records"]
        for part, seconds in r["parts"].items()
    ]
    rows = [[x["stage"], x["part"], f"{x['ms']:.2f}", f"{100 * x['share']:.1f} %"] for x in parts]
    notes = [
        f"{r['stage']}: {r['pictures']} images in {1e3 * r['seconds']:.1f} ms, "
        f"{r['pictures_per_second']:,.0f} per second, "
        f"{r['share']:.2f} times the rate of the backbone's forward and backward alone"
        for r in result["records"]
    ]
    sentence = "; ".join(f"{r['stage']}: {r['pictures_per_second']:,.0f} images/s" for r in result["records"])
    header = ["stage", "part of the step", "ms", "share"]
    return in_format(form, result, [(header, rows)], ["\n".join(notes)], parts, f"{result['recipe']}, {sentence}")
