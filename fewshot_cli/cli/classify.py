"""`fsl classify`: labels for your own images from a few examples."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format, warn_not_converged
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import Format


def classify(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images, to label.")],
    support: o.Support,
    recipe: o.Recipe = "cifar_fs_5w5s_conv64",
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, Format.csv, help="Format of the labels on stdout.")
    ] = Format.table,
    device: o.Device = "auto",
    class_level: o.ClassLevel = None,
    skip_bad: o.SkipBad = False,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Label your own images from a folder with one or a few examples per class."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.data.user_images import Taking
    from fewshot_cli.predict.classify import classify as label
    from fewshot_cli.runtime.device import resolve

    loaded = load_recipe(recipe, sets, solver, seed)
    taking = Taking(class_level, skip_bad)
    result = label(loaded, images, support, weights, o.data_root(data_root), resolve(device), taking)
    emit(in_format(format, result, [_table(result)], [_note(result)], _records(result)))
    warn_not_converged(result["not_converged"])


def _records(result: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the CSV: image, label, and the score of every class."""
    return [
        {
            "picture": r["picture"],
            "label": r["label"],
            "score": f"{r['score']:.6f}",
            **{f"score:{name}": f"{score:.6f}" for name, score in r["scores"].items()},
        }
        for r in result["pictures"]
    ]


def _table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for r in result["pictures"]:
        second = sorted(r["scores"], key=r["scores"].get, reverse=True)[1]
        rows.append([r["picture"], r["label"], f"{r['score']:.3f}", f"{second} {r['scores'][second]:.3f}"])
    return ["image", "label", "score", "second"], rows


def _note(result: dict[str, Any]) -> str:
    examples = ", ".join(f"{name} {count}" for name, count in result["support"].items())
    return (
        f"examples: {examples}; recipe {result['recipe']}, weights {result['weights']}; a score is a softmax over the "
        "classes, not a calibrated probability"
    )
