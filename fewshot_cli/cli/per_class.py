"""`fsl eval --per-class` and `--confusion`: a run's answers, class by class, beside its result."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.cli.github import publish
from fewshot_cli.cli.output import Block
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit, width
from fewshot_cli.runtime.render import Format, as_csv, as_json, between, plus_minus, tables

if TYPE_CHECKING:
    from fewshot_cli.evaluation.results import ClassAccuracy, Confused
    from fewshot_cli.evaluation.tally import Tally

SHOWN = 20  # confused pairs in a table that people read


def check_format(form: Format, per_class: bool, confusion: bool) -> None:
    """Refuse a format that cannot hold what was asked for."""
    if form is Format.csv and per_class and confusion:
        raise FslError("--per-class and --confusion are two tables, a CSV holds one; ask for one, or --format json")
    if form in (Format.junit, Format.latex) and (per_class or confusion):
        raise FslError(
            f"--format {form} has no place for --per-class and --confusion; leave them out, or --format json"
        )


def print_with_answers(
    text: str, summary: Mapping[str, Any], form: Format, path: Path, per_class: bool, confusion: bool
) -> None:
    """Print the result, with its run's answers if they are wanted."""
    from fewshot_cli.runtime.runs import SUMMARY

    text = _with_answers(text, summary, form, path, per_class, confusion)
    emit(publish(summary, text) if form is Format.github else text, kept=str(path / SUMMARY))


def _with_answers(
    text: str, summary: Mapping[str, Any], form: Format, path: Path, per_class: bool, confusion: bool
) -> str:
    """The result as it is printed, with the answers of its run: tables below it, keys of its JSON, or a CSV of them in
    its place.
    """
    if not (per_class or confusion):
        return text
    from fewshot_cli.evaluation.tally import tally

    answers = tally(path)
    if form is Format.json:
        more: dict[str, Any] = {"per_class": answers.accuracies} if per_class else {}
        return as_json({**summary, **more, **({"confusion": answers.confusion()} if confusion else {})})
    if form is Format.csv:
        return as_csv([dict(row) for row in (answers.accuracies if per_class else answers.pairs())])
    blocks = [_per_class(answers.accuracies)] if per_class else []
    if not confusion:
        return "\n\n".join([text, *tables(form, *blocks, width=width())])
    return "\n\n".join([text, *tables(form, *blocks, _confused(answers.confused()), width=width()), _note(answers)])


def _per_class(accuracies: "list[ClassAccuracy]") -> Block:
    """The classes, the least accurate first."""
    rows = sorted(accuracies, key=lambda row: (row["accuracy"], row["class"]))
    cells = [(row["class"], _interval(row), row["queries"]) for row in rows]
    return ("class", "accuracy %", "queries"), cells


def _interval(row: "ClassAccuracy") -> str:
    """An accuracy over episodes with ±, one over single images with both ends of Wilson's interval."""
    from fewshot_cli.evaluation.stats import share_ends

    if "episodes" in row:
        return plus_minus(row["accuracy"], row["ci95"])
    return between(row["accuracy"], *share_ends(row["correct"], row["queries"]))


def _confused(pairs: "list[Confused]") -> Block:
    """The pairs of classes that were confused most."""
    cells = [
        (pair["class"], pair["predicted"], f"{pair['count']}/{pair['offered']}", f"{pair['share']:.1f}")
        for pair in pairs[:SHOWN]
    ]
    return ("class", "taken for", "queries", "%"), cells


def _note(answers: "Tally") -> str:
    more = len(answers.confused()) - SHOWN
    rest = f"; {more} more pairs: --confusion --format csv" if more > 0 else ""
    return f"queries of a class given the other, of those that had it among their classes{rest}"
