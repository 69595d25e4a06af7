"""`fsl open-set`: how well classes without support are told, and what probabilities are worth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli import output
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import Format, plus_minus

if TYPE_CHECKING:
    import torch

    from fewshot_cli.config.schema import Recipe


def open_set(
    recipe: o.Recipe = o.DEFAULT_RECIPE,
    unknown: Annotated[int, typer.Option("--unknown", min=1, help="Classes in each episode without support.")] = 5,
    reject: Annotated[
        float, typer.Option("--reject", min=0.001, max=0.9, help="Share of their images that may pass as known.")
    ] = 0.05,
    weights: o.Weights = None,
    solver: o.Solver = None,
    sets: o.Set = None,
    episodes: o.Episodes = None,
    format: Annotated[Format, o.format_option(Format.table, Format.json, Format.md, Format.csv)] = Format.table,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Evaluate a recipe on episodes with classes that have no support: how well they are told from those that have,
    and what probabilities are worth.
    """
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.runtime.device import resolve

    loaded = load_recipe(recipe, [*(sets or []), *o.as_sets({"eval.episodes": episodes})], solver, seed)
    tell_unknown(loaded, unknown, reject, weights, o.data_root(data_root), resolve(device), format, ())


def tell_unknown(
    recipe: "Recipe",
    unknown: int,
    reject: float,
    weights: Path | None,
    root: Path,
    device: "torch.device",
    form: Format,
    others: tuple[Any, ...],
) -> None:
    """Evaluate with classes that have no support, and print how well they are told."""
    from fewshot_cli.evaluation.open_set import evaluate_open_set
    from fewshot_cli.runtime.processes import Processes

    if any(others) or form in (Format.junit, Format.github):
        raise FslError(
            "--open-set is a measurement of its own: leave out --check, --write-expect, --classifier, --run-dir, "
            "--resume, --devices, --num-nodes, --dry-run, --per-class, --confusion and --format junit or github"
        )
    result = evaluate_open_set(recipe, root, Processes(device), unknown, reject, weights)
    error, accept = result["calibration_error"], result["false_accept"]
    measured = {
        "accuracy of known %": plus_minus(result["accuracy"], result["ci95"]),
        **{f"AUROC by {by} %": plus_minus(area["mean"], area["ci95"]) for by, area in result["auroc"].items()},
        "unknown taken for known %": f"{accept['measured']:.2f} (asked for {accept['asked']:g})",
        "known taken for unknown %": f"{result['false_reject']:.2f}",
        "calibration error %": f"{error['before']:.2f}",
        "the same, calibrated %": "-" if error["after"] is None else f"{error['after']:.2f}",
    }
    notes = [
        f"{result['recipe']}: {result['way']}-way {result['shot']}-shot with {unknown} unknown classes, "
        f"{result['episodes']} episodes of {result['dataset']}; seed {result['seed']}; weights {result['weights']}",
        *([f"external data: {', '.join(result['external'])}"] if result["external"] else []),
    ]
    rows = list(measured.items())
    learned = next(iter(result["auroc"].values()))
    sentence = (
        f"{result['recipe']}: {unknown} unknown classes are told with an AUROC of "
        f"{plus_minus(learned['mean'], learned['ci95'])} %, "
        f"{plus_minus(result['accuracy'], result['ci95'])} % of known images get the right class, "
        f"over {result['episodes']} episodes"
    )
    emit(output.in_format(form, result, [(["measured", "value"], rows)], notes, [measured], sentence))
    output.warn_not_converged(result["not_converged"])
