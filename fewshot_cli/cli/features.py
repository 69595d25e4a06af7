"""`fsl features`: what a recipe's backbone makes of a split, as a file for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import say_next
from fewshot_cli.runtime.console import say


def features(
    out: Annotated[
        Path, typer.Option("--out", "-o", dir_okay=False, help="File to write: .safetensors, .npz or .parquet.")
    ],
    recipe: o.Recipe = o.DEFAULT_RECIPE,
    split: Annotated[
        str | None, typer.Option("--split", help="Split, train, val or test, in place of the recipe's eval.split.")
    ] = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Write the features [N,d,h,w] of a split with labels and names; `fsl prepare features --from OUT` reads them."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.data.arrays import check_ending
    from fewshot_cli.evaluation.export import export
    from fewshot_cli.evaluation.model import Model
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import Processes

    check_ending(out)
    o.refuse_existing(out, force)
    loaded = load_recipe(recipe, [*(sets or []), *o.as_sets({"eval.split": split})], None, seed)
    model = Model.open(loaded, o.data_root(data_root), Processes(resolve(device)), weights)
    shape = export(model, out)
    say(
        f"{out}: {' × '.join(map(str, shape))} of {loaded.store}/{loaded.eval.split}, {out.stat().st_size / 1e6:.1f} MB"
    )
    say_next(f"fsl prepare features --from {out}")
