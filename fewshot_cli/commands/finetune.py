"""`fsl finetune-sfc`: a classifier from a folder of one's own support pictures."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.commands import options as o
from fewshot_cli.console import emit, say


def finetune_sfc(
    support: Annotated[Path, typer.Option("--support", help="Folder (or archive) <class>/<picture> of examples.")],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="Classifier file to write.")] = Path(
        "classifier.safetensors"
    ),
    recipe: o.Recipe = "glyphs_5w5s",
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    device: o.Device = "auto",
    seed: o.Seed = None,
    print_config: o.PrintConfig = False,
    debug: o.Debug = False,
) -> None:
    """Learn a structured fully connected layer on your own support folder and write it as a classifier."""
    from fewshot_cli import recipe as recipes
    from fewshot_cli.device import resolve
    from fewshot_cli.training.sfc import finetune

    loaded = recipes.load(recipe, sets, solver, seed)
    if print_config:
        return emit(o.printed(loaded))
    summary = finetune(loaded, support, output, weights, resolve(device))
    say(f"next: fsl eval --recipe {recipe} --classifier {output} --query FOLDER")
    return emit(json.dumps(summary, indent=2), kept=f"{output}.json")
