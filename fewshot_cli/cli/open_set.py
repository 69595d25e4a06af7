"""`fsl eval --open-set`: how well classes without support are told, and what probabilities are worth."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.cli import output
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import Format, plus_minus

if TYPE_CHECKING:
    import torch

    from fewshot_cli.config.schema import Recipe


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
    emit(output.in_format(form, result, [(["measured", "value"], rows)], notes, [measured]))
    output.warn_not_converged(result["not_converged"])
