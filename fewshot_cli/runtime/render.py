"""The formats of results: an aligned table, JSON, Markdown, CSV and JUnit XML, each written in one place; LaTeX has a
file of its own.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from fewshot_cli.runtime.columns import grid
from fewshot_cli.runtime.shown import shown


class Format(StrEnum):
    """Formats of `--format`; a verb may support only some of them."""

    table = "table"
    json = "json"
    md = "md"
    csv = "csv"
    junit = "junit"
    latex = "latex"
    github = "github"


def as_json(data: Any) -> str:
    """Plain data as indented JSON."""
    return json.dumps(data, indent=2)


def as_yaml(data: dict[str, Any]) -> str:
    """Plain data as YAML, such as a resolved recipe, without empty keys."""
    import yaml

    return yaml.safe_dump(without_empty(data), sort_keys=False, allow_unicode=True)


def without_empty(data: Any) -> Any:
    """The data without empty keys, the options of a part beside its name."""
    if not isinstance(data, dict):
        return data
    if set(data) == {"name", "options"}:
        return {"name": data["name"], **without_empty(data["options"])}
    return {key: without_empty(value) for key, value in data.items() if value is not None}


def markdown(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join("| " + " | ".join(shown(str(cell)) for cell in cells) + " |" for cells in lines)


def csv_table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_inert(cell) for cell in row] for row in (header, *rows))
    return text.getvalue()


def _inert(cell: Any) -> Any:
    """A cell that no spreadsheet evaluates: after an apostrophe where it begins as a formula does and is no number."""
    if not isinstance(cell, str) or cell[:1] not in ("=", "+", "-", "@", "\t", "\r") or not cell:
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def as_csv(records: Sequence[dict[str, Any]]) -> str:
    """Records as CSV, with a column for every key that any of them has."""
    header = list(dict.fromkeys(key for record in records for key in record))
    return csv_table(header, [[record.get(key, "") for key in header] for record in records])


class Block(NamedTuple):
    """A table: its header, its rows, and the columns that a narrow terminal may do without, the least needed first."""

    header: Sequence[Any]
    rows: Iterable[Sequence[Any]]
    least: Sequence[str] = ()


def tables(form: Format, *blocks: tuple[Any, ...], width: int | None = None) -> list[str]:
    """Tables, each a `Block` or its fields: Markdown for `md` and `github`, else columns, in `width` if given."""
    made = [Block(*block) for block in blocks]
    if form in (Format.md, Format.github):
        return [markdown(block.header, block.rows) for block in made]
    return [grid(block.header, block.rows, width, block.least) for block in made]


@dataclass(frozen=True)
class JUnitCase:
    """One test case of a JUnit report; a failure and a skip each have their message."""

    name: str
    classname: str
    seconds: float = 0.0
    text: str = ""
    failure: str | None = None
    failure_text: str = ""
    skipped: str | None = None


def junit(suite: str, cases: Sequence[JUnitCase]) -> str:
    """A JUnit XML report of one test suite; its time is that of its cases together."""
    from xml.etree import ElementTree as ET

    root = ET.Element(
        "testsuite",
        name=suite,
        tests=str(len(cases)),
        failures=str(sum(case.failure is not None for case in cases)),
        errors="0",
        skipped=str(sum(case.skipped is not None for case in cases)),
        time=f"{sum(case.seconds for case in cases):.3f}",
    )
    for case in cases:
        element = ET.SubElement(root, "testcase", classname=case.classname, name=case.name, time=f"{case.seconds:.3f}")
        if case.failure is not None:
            ET.SubElement(element, "failure", message=case.failure).text = case.failure_text
        if case.skipped is not None:
            ET.SubElement(element, "skipped", message=case.skipped)
        if case.text:
            ET.SubElement(element, "system-out").text = case.text
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode")


def between(mean: float, low: float, high: float) -> str:
    """A mean with the ends of an interval that is not centred on it."""
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def plus_minus(mean: float, ci95: float | None, sign: str = "") -> str:
    """A mean with the half-width of its interval, or without where one value gives none."""
    return f"{mean:{sign}.2f}" + ("" if ci95 is None else f" ± {ci95:.2f}")
