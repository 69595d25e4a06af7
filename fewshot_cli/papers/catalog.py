"""The tables of the papers by name, and their rows."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from fewshot_cli.config import strict_yaml
from fewshot_cli.errors import RecipeError
from fewshot_cli.registry import did_you_mean


@cache
def _paper(name: str) -> dict[str, Any]:
    return strict_yaml.load(Path(str(resources.files("fewshot_cli.papers"))) / f"{name}.yaml")[0]


def table_names() -> list[str]:
    """Every table of every paper, as `paper.table`."""
    papers = sorted(p.name for p in resources.files("fewshot_cli.papers").iterdir())
    return [f"{p[:-5]}.{t}" for p in papers if p.endswith(".yaml") for t in _paper(p[:-5])["tables"]]


def find_table(name: str) -> dict[str, Any]:
    """A table by `paper.table`, with its source spelled out. Raises `RecipeError` when there is none."""
    if name not in table_names():
        raise RecipeError(
            f"{name}: no such table{did_you_mean(name, table_names())}; there are {', '.join(table_names())}"
        )
    paper, _, table = name.partition(".")
    made = _paper(paper)["tables"][table]
    source, comma, place = made["source"].partition(",")
    return {
        **made,
        "name": name,
        "source": _paper(paper)["sources"][source] + comma + place,
        "parts": _paper(paper).get("parts", {}),
    }


def chosen(table: dict[str, Any], wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows that one of the words names, or else whose names hold it; all without words. Raises `RecipeError` for
    none.
    """
    names = [r["name"].lower() for r in table["rows"]]
    meant = {
        name
        for word in map(str.lower, wanted)
        for name in names
        if name == word or (word not in names and word in name)
    }
    rows = [r for r in table["rows"] if not wanted or r["name"].lower() in meant]
    if not rows:
        raise RecipeError(
            f"--rows {' '.join(wanted)}: no row of {table['name']} is called so; it has "
            + ", ".join(repr(r["name"]) for r in table["rows"])
        )
    return rows


def elsewhere(paper: str, dataset: str) -> list[str]:
    """What others found for a paper's method on a dataset."""
    return _paper(paper).get("elsewhere", {}).get(dataset, [])
