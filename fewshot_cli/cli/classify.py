"""`fsl classify`: labels for a user's own pictures from a few examples."""

import csv
import io
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.runtime.console import emit, say


class Form(StrEnum):
    """Formats of the labels."""

    table = "table"
    json = "json"
    csv = "csv"


def classify(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures, to label.")],
    support: Annotated[Path, typer.Option("--support", help="Folder (or archive) <class>/<picture> of examples.")],
    recipe: o.Recipe = "cifar_fs_5w5s_conv64",
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    format: Annotated[Form, typer.Option("--format", help="Format of the labels on stdout.")] = Form.table,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    debug: o.Debug = False,
) -> None:
    """Label your own pictures from a folder with one or a few examples a class."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.predict.classify import classify as run
    from fewshot_cli.runtime.device import resolve

    loaded = load_recipe(recipe, sets, solver, seed)
    result = run(loaded, pictures, support, weights, o.data_root(data_root), resolve(device))
    emit(_rendered(result, format))
    if result["not_converged"]:
        say(f"WARNING: the solver did not converge on {result['not_converged']} problems")


def _rendered(result: dict[str, Any], form: Form) -> str:
    if form is Form.json:
        return json.dumps(result, indent=2)
    classes = list(result["support"])
    if form is Form.csv:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["picture", "label", "score", *(f"score:{c}" for c in classes)])
        for r in result["pictures"]:
            writer.writerow([r["picture"], r["label"], *(f"{x:.6f}" for x in (r["score"], *r["scores"].values()))])
        return out.getvalue()
    from fewshot_cli.runtime.render import grid

    rows = []
    for r in result["pictures"]:
        second = sorted(r["scores"], key=r["scores"].get, reverse=True)[1]
        rows.append([r["picture"], r["label"], f"{r['score']:.3f}", f"{second} {r['scores'][second]:.3f}"])
    shots = ", ".join(f"{c} {n}" for c, n in result["support"].items())
    return "\n\n".join(
        [
            grid(["picture", "label", "score", "second"], rows),
            f"examples: {shots}; recipe {result['recipe']}, weights {result['weights']}; a score is a softmax "
            "over the classes, not a calibrated probability",
        ]
    )
