"""`fsl proxies`: draw which proxies of a multi-proxy classifier the places of an image are matched with."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import match as m
from fewshot_cli.cli import options as o
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.render import Format

RECIPE = "cifar100_resnet20_mpw"


def proxies(
    image: Annotated[Path, typer.Argument(help="An image.")],
    out: m.Out,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Draw this class; repeatable (default: the three most likely)."),
    ] = None,
    recipe: o.Recipe = RECIPE,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    format: m.Printed = Format.table,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Draw which proxy of each class every place of IMAGE goes to, by a recipe with classifier multi_proxy."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.figures.canvas import check
    from fewshot_cli.figures.proxies import correspond
    from fewshot_cli.runtime.device import resolve

    check(out)
    loaded = load_recipe(recipe, sets, solver, seed)
    if loaded.eval.protocol != "classification":
        raise FslError(f"recipe {loaded.name} has no classifier; give one of protocol classification, such as {RECIPE}")
    records = correspond(loaded, image, classes or [], out, weights, o.data_root(data_root), resolve(device))
    m.print_drawn(records, out, format)
