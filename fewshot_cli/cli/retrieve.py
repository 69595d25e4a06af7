"""`fsl retrieve`: rank a gallery for each query, a global shortlist first, then the recipe's head."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import TableFormat as Form
from fewshot_cli.runtime.render import as_csv, grid, markdown


def retrieve(
    recipe: o.Recipe = "cifar_fs_5w1s_conv64",
    gallery: Annotated[
        Path | None, typer.Option("--gallery", help="Folder <class>/<picture> in place of the recipe's split.")
    ] = None,
    query: Annotated[
        Path | None, typer.Option("--query", help="Folder <class>/<picture> of queries; without it the gallery's own.")
    ] = None,
    queries: Annotated[int | None, typer.Option("--queries", min=1, help="So many queries, drawn by the seed.")] = None,
    shortlist: Annotated[int, typer.Option("--shortlist", min=1, help="Pictures re-ranked for each query.")] = 100,
    k: Annotated[str, typer.Option("--k", help="Recall@k for these k.")] = "1,2,4,8",
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    format: Annotated[Form, typer.Option("--format", help="Format of the result on stdout.")] = Form.table,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    debug: o.Debug = False,
) -> None:
    """Rank a gallery for each query by optimal matching of a global shortlist (--format json lists it), and
    Recall@k.
    """
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.predict.retrieve import retrieve as run
    from fewshot_cli.runtime.device import resolve

    if not all(word.strip().isascii() and word.strip().isdecimal() and int(word) > 0 for word in k.split(",")):
        raise FslError(f"--k {k}: write positive whole numbers with commas between, as in 1,2,4,8")
    if query is not None and gallery is None:
        raise FslError("--query needs --gallery, the folder to search in")
    loaded = load_recipe(recipe, sets, solver, seed)
    ks = tuple(sorted({int(word) for word in k.split(",")}))
    result = run(loaded, gallery, query, queries, shortlist, ks, weights, o.data_root(data_root), resolve(device))
    emit(_rendered(result, format))


def _rendered(result: dict[str, Any], form: Form) -> str:
    if form is Form.json:
        return json.dumps(result, indent=2)
    if form is Form.csv:
        return as_csv([{"k": k, **values} for k, values in result["recall"].items()])
    header = ["", *(f"Recall@{k} %" for k in result["recall"])]
    rows = [
        [name, *(f"{r[kind]:.2f} ± {r[f'{kind}_ci95']:.2f}" for r in result["recall"].values())]
        for name, kind in (("global", "global"), (f"{result['head']} on {result['shortlist']}", "reranked"))
    ]
    rows.append(
        ["difference", *(f"{r['difference']:+.2f} ± {r['difference_ci95']:.2f}" for r in result["recall"].values())]
    )
    draw = markdown if form is Form.md else grid
    lines = [
        f"{result['queries']} queries in {result['pictures']} pictures of {result['gallery']}; recipe "
        f"{result['recipe']}, "
        f"weights {result['weights']}",
        f"intervals: {result['interval']}; difference: {result['interval_difference']}",
    ]
    if result["left_out"]:
        lines.append(f"left out: {result['left_out']} queries whose class has no other picture")
    if result["not_converged"]:
        lines.append(f"WARNING: the solver did not converge on {result['not_converged']} problems")
    return "\n\n".join([draw(header, rows), "\n".join(lines)])
