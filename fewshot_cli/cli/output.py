"""What several verbs print: a result in the chosen format, a run's summary, a recipe, the next command, warnings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.runtime.columns import fold
from fewshot_cli.runtime.console import emit, say, width
from fewshot_cli.runtime.latex import Mark, latex
from fewshot_cli.runtime.render import Format, as_csv, as_json, as_yaml, tables
from fewshot_cli.runtime.shown import unsteered

if TYPE_CHECKING:  # importing these would import pydantic and NumPy for --help
    from fewshot_cli.config.schema import Recipe
    from fewshot_cli.data.store import Store

Block = tuple[Any, ...]  # a `render.Block`, or its header and rows alone


def in_format(
    form: Format,
    result: Any,
    blocks: Sequence[Block],
    notes: Sequence[str] = (),
    records: Sequence[dict[str, Any]] = (),
    sentence: str = "",
    marks: Mapping[tuple[int, int], Mark] | None = None,
) -> str:
    """A result as JSON; its `records` as CSV; or as tables, in columns, Markdown or LaTeX, with notes.

    A table in columns fits the terminal, and begins with the `sentence` that says the result. `marks` says which cells
    LaTeX sets off, by row and column of the first table.
    """
    if form is Format.json:
        return as_json(result)
    if form is Format.csv:
        return as_csv(records)
    if form is Format.latex:
        (header, rows), *more = ((block[0], block[1]) for block in blocks)
        return "\n\n".join([latex(header, rows, marks, notes), *(latex(*block) for block in more)])
    if form is Format.md:
        return "\n\n".join([*tables(form, *blocks), *map(unsteered, notes)])
    wide = width()
    said = [unsteered(text) for text in ([sentence] if sentence else []) + list(notes)]
    said = ["\n".join(line for whole in text.splitlines() for line in folded(whole, wide)) for text in said]
    drawn = tables(form, *blocks, width=wide)
    return "\n\n".join([*said[: bool(sentence)], *drawn, *said[bool(sentence) :]])


def folded(text: str, wide: int | None) -> list[str]:
    """The lines of a text on a terminal of so many columns."""
    return [text] if wide is None else fold(text, wide)


def print_summary(summary: Mapping[str, Any], path: Path) -> None:
    """The summary of a run that is kept in its directory."""
    from fewshot_cli.runtime.runs import SUMMARY

    emit(as_json(summary), kept=str(path / SUMMARY))


def print_recipe(recipe: "Recipe") -> None:
    """The resolved recipe as YAML that `--recipe` reads back."""
    emit(as_yaml({key: value for key, value in recipe.resolved().items() if key != "name"}))


def say_next(command: str) -> None:
    """Name the command that usually follows."""
    say(f"next: {command}")


def say_ready_to_train(store: "Store") -> None:
    """The end of a dry run of training."""
    say(
        "dry run: recipe, solver, weights, episodes and dataset "
        f"{store.name} (sha256 {store.index['sha256'][:16]}…) are in order"
    )


def not_converged(problems: int) -> str:
    """The warning about problems that the solver gave up on."""
    return f"WARNING: the solver did not converge on {problems} problems"


def warn_not_converged(problems: int) -> None:
    """Say the warning, if there are any such problems."""
    if problems:
        say(not_converged(problems))
