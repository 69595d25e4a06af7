"""`fsl match`: draw what in one picture matches what in another."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.commands import options as o
from fewshot_cli.console import emit, say
from fewshot_cli.errors import FslError


def match(
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="The figure (PNG, SVG or PDF).")],
    left: Annotated[Path | None, typer.Argument(help="A picture.")] = None,
    right: Annotated[Path | None, typer.Argument(help="The picture it is matched with.")] = None,
    recipe: o.Recipe = "cifar_fs_5w1s_conv64",
    episode: Annotated[
        int | None,
        typer.Option(
            "--episode", min=0, max=2**63 - 1, help="In place of two files: this episode of the recipe's dataset."
        ),
    ] = None,
    query: Annotated[
        int | None, typer.Option("--query", min=0, help="Query of the episode, against all its classes (default: 0).")
    ] = None,
    flows: Annotated[bool, typer.Option("--flows", help="Draw the full flow as lines too.")] = False,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    debug: o.Debug = False,
) -> None:
    """Draw LEFT, LEFT rebuilt from RIGHT's best matching patches (brightness: node weight), and RIGHT."""
    from fewshot_cli import match as figure
    from fewshot_cli import recipe as recipes
    from fewshot_cli.device import resolve
    from fewshot_cli.plots import check

    pair = [path for path in (left, right) if path is not None]
    if len(pair) != (0 if episode is not None else 2):
        raise FslError("give two pictures, LEFT and RIGHT, or --episode with a number for a query against all classes")
    if query is not None and episode is None:
        raise FslError("--query names a query of an episode; give --episode too, or leave --query out")
    check(out)
    loaded = recipes.load(recipe, sets, solver, seed)
    where = (out, flows, weights, o.data_root(data_root), resolve(device))
    if pair:
        records = figure.match_pictures(loaded, *pair, *where)
    else:
        records = figure.match_episode(loaded, episode, query or 0, *where)
    say(f"figure: {out}")
    if failed := sum(r["not_converged"] for r in records):
        say(f"WARNING: the solver did not converge on {failed} problems")
    emit(json.dumps(records, indent=2))
