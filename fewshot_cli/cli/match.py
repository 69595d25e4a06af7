"""`fsl match`: draw what in one picture matches what in another, or in the proxies of a classifier."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit, say


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
    maps: Annotated[
        bool, typer.Option("--maps", help="Of head align: heat maps and correlations before and after each step.")
    ] = False,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Of one picture and a classifier: draw this class; repeatable (default: likeliest three).",
        ),
    ] = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    debug: o.Debug = False,
) -> None:
    """Draw LEFT, LEFT rebuilt from RIGHT's best matching patches (brightness: node weight), and RIGHT.

    With --maps and a recipe of head align: what it makes of RIGHT's map to lay it over LEFT's. With one of classifier
    multi_proxy, such as cifar100_resnet20_mpw: which proxy each place of one picture goes to.
    """
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.figures.canvas import check
    from fewshot_cli.runtime.device import resolve

    pair = [path for path in (left, right) if path is not None]
    if query is not None and episode is None:
        raise FslError("--query names a query of an episode; give --episode too, or leave --query out")
    check(out)
    loaded = load_recipe(recipe, sets, solver, seed)
    proxies = loaded.eval.protocol == "classification"
    if proxies and (len(pair) != 1 or episode is not None or flows):
        raise FslError(
            f"recipe {loaded.name} classifies one picture at a time: give one PICTURE, which is matched with the "
            "proxies of its classes, without --episode, --query and --flows"
        )
    if not proxies and classes:
        raise FslError(
            "--class chooses classes of a classifier; give a recipe of protocol classification, such as "
            "cifar100_resnet20_mpw, or leave --class out"
        )
    if not proxies and len(pair) != (0 if episode is not None else 2):
        raise FslError(
            "give two pictures, LEFT and RIGHT, or --episode with a number for a query against all classes, or one "
            "picture and a recipe with classifier multi_proxy, such as cifar100_resnet20_mpw"
        )
    if maps and (flows or proxies):
        raise FslError(
            "--maps draws what head align does to a support picture's map; leave out --flows, and "
            "take a recipe of episodes"
        )
    where = (weights, o.data_root(data_root), resolve(device))
    if proxies:
        from fewshot_cli.figures.proxies import correspond

        records = correspond(loaded, pair[0], classes or [], out, *where)
    elif maps:
        from fewshot_cli.figures.alignment import map_episode, map_pictures

        if pair:
            records = map_pictures(loaded, *pair, out, *where)
        else:
            records = map_episode(loaded, episode, query or 0, out, *where)
    else:
        from fewshot_cli.figures import matching as figure

        if pair:
            records = figure.match_pictures(loaded, *pair, out, flows, *where)
        else:
            records = figure.match_episode(loaded, episode, query or 0, out, flows, *where)
    say(f"figure: {out}")
    if failed := sum(r["not_converged"] for r in records):
        say(f"WARNING: the solver did not converge on {failed} problems")
    emit(json.dumps(records, indent=2))
