"""The tables of the papers by name, and their rows."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypeVar

from fewshot_cli.config import strict_yaml
from fewshot_cli.config.load import Source, validate_options
from fewshot_cli.errors import RecipeError
from fewshot_cli.papers.schema import EvaluatedRow, MetatrainedRow, Paper, Table, TrainedRow
from fewshot_cli.registry import did_you_mean

RowT = TypeVar("RowT", EvaluatedRow, MetatrainedRow, TrainedRow)


def load_paper(path: Path) -> Paper:
    """A paper's file. Raises `RecipeError` with file and line for the first key or value that is not right."""
    source = Source(str(path), *strict_yaml.load(path))
    paper: Paper = validate_options(Paper, source.data, source)
    for place, reason in paper.contradictions():
        raise source.error(place, reason)
    return paper


@cache
def _paper(name: str) -> Paper:
    return load_paper(Path(str(resources.files("fewshot_cli.papers"))) / f"{name}.yaml")


def table_names() -> list[str]:
    """Every table of every paper, as `paper.table`."""
    files = sorted(p.name for p in resources.files("fewshot_cli.papers").iterdir() if p.name.endswith(".yaml"))
    papers = [name.removesuffix(".yaml") for name in files]
    return [f"{paper}.{table}" for paper in papers for table in _paper(paper).tables]


def find_table(name: str) -> Table:
    """A table by `paper.table`, with its source spelled out. Raises `RecipeError` when there is none."""
    known = table_names()
    alike = [other for other in known if other.partition(".")[2].lower() == name.lower()]
    if alike:
        titles = "; ".join(f"{other} ({find_table(other).title})" for other in alike)
        raise RecipeError(f"{name}: of which paper? Give {titles}")
    if name not in known:
        raise RecipeError(f"{name}: no such table{did_you_mean(name, known)}; there are {', '.join(known)}")
    paper, _, key = name.partition(".")
    return _paper(paper).table(key, name)


def chosen_rows(table: str, rows: tuple[RowT, ...], words: tuple[str, ...]) -> list[RowT]:
    """Rows that one of the words names, or else whose names contain it; all without words. Raises `RecipeError`
    for none.
    """
    names = [row.name.lower() for row in rows]
    meant = {
        name for word in map(str.lower, words) for name in names if name == word or (word not in names and word in name)
    }
    chosen = [row for row in rows if not words or row.name.lower() in meant]
    if not chosen:
        known = ", ".join(repr(row.name) for row in rows)
        raise RecipeError(f"--rows {' '.join(words)}: no row of {table} is called so; it has {known}")
    return chosen


def elsewhere(paper: str, dataset: str) -> list[str]:
    """What others measured for a paper's method on a dataset."""
    return list(_paper(paper).elsewhere.get(dataset, ()))
