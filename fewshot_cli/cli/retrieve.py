"""`fsl retrieve`: rank a gallery for each query, a global shortlist first, then the recipe's head."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format, not_converged
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import Format, between, plus_minus


def retrieve(
    recipe: o.PhotoRecipe = None,
    gallery: Annotated[
        Path | None,
        typer.Option("--gallery", help="Folder of images as <class>/<image>, in place of the recipe's split."),
    ] = None,
    query: Annotated[
        Path | None,
        typer.Option("--query", help="Folder of queries as <class>/<image>; without it, the gallery's own images."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, help="Number of queries, drawn with the seed (default: all).")
    ] = None,
    shortlist: Annotated[int, typer.Option("--shortlist", min=1, help="Images re-ranked for each query.")] = 100,
    k: Annotated[str, typer.Option("--k", help="Values of k for Recall@k, separated by commas.")] = "1,2,4,8",
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    format: Annotated[Format, o.format_option(Format.table, Format.json, Format.md, Format.csv)] = Format.table,
    device: o.Device = "auto",
    class_level: o.ClassLevel = None,
    skip_bad: o.SkipBad = False,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Rank a gallery for each query: a global shortlist, re-ranked by optimal matching, with Recall@k.

    --format json also lists the ranked images.
    """
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.predict.retrieve import retrieve as rank
    from fewshot_cli.runtime.device import resolve

    ranks = _ranks(k)
    if query is not None and gallery is None:
        raise FslError("--query needs --gallery, the folder to search in")
    loaded = load_recipe(o.photo_recipe(recipe, 1, gallery is not None), sets, solver, seed)
    root, place, taking = o.data_root(data_root), resolve(device), o.taking(gallery, "--gallery", class_level, skip_bad)
    result = rank(loaded, gallery, query, queries, shortlist, ranks, weights, root, place, taking)
    records = [{"k": k, **values} for k, values in result["recall"].items()]
    emit(in_format(format, result, [_table(result, format)], ["\n".join(_notes(result))], records, _sentence(result)))


def _ranks(text: str) -> tuple[int, ...]:
    """`--k`: ascending, each once."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and int(word) > 0 for word in words):
        raise FslError(f"--k {text}: write positive whole numbers separated by commas, as in 1,2,4,8")
    return tuple(sorted(set(map(int, words))))


def _table(result: dict[str, Any], form: Format) -> tuple[list[str], list[list[str]]]:
    """Rankings by k; on a terminal the other way round, which is narrower."""
    recall, queries = result["recall"].values(), result["queries"]
    rows = [
        [name, *(_share_with_ends(r[kind], queries) for r in recall)]
        for name, kind in (("global", "global"), (f"{result['head']} on {result['shortlist']}", "reranked"))
    ]
    rows.append(["difference", *(plus_minus(r["difference"], r["difference_ci95"], "+") for r in recall)])
    header = ["", *(f"Recall@{k} %" for k in result["recall"])]
    if form is Format.md:
        return header, rows
    first, *others = zip(header, *rows, strict=True)
    return list(first), [list(other) for other in others]


def _share_with_ends(value: float, queries: int) -> str:
    from fewshot_cli.evaluation.stats import share_ends

    return between(value, *share_ends(round(value * queries / 100), queries))


def _sentence(result: dict[str, Any]) -> str:
    k, first = next(iter(result["recall"].items()))
    return (
        f"{result['gallery']}: Recall@{k} {_share_with_ends(first['reranked'], result['queries'])} % of "
        f"{result['queries']} queries by {result['head']}, "
        f"{plus_minus(first['difference'], first['difference_ci95'], '+')} to pooled features"
    )


def _notes(result: dict[str, Any]) -> list[str]:
    notes = [
        f"{result['queries']} queries in {result['pictures']} images of {result['gallery']}; "
        f"recipe {result['recipe']}, weights {result['weights']}",
        f"intervals: {result['interval'].partition(', the distance')[0]}; difference: {result['interval_difference']}",
    ]
    if result["left_out"]:
        notes.append(f"left out: {result['left_out']} queries whose class has no other image")
    if result["not_converged"]:
        notes.append(not_converged(result["not_converged"]))
    return notes
