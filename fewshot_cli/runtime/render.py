"""Results as table, JSON, Markdown, CSV or JUnit XML."""

import csv
import io
import json
from enum import StrEnum
from typing import Any
from xml.etree import ElementTree as ET


class Format(StrEnum):
    """Formats of `--format`."""

    table = "table"
    json = "json"
    md = "md"
    csv = "csv"
    junit = "junit"


class TableFormat(StrEnum):
    """Formats of several rows of figures."""

    table = "table"
    json = "json"
    md = "md"
    csv = "csv"


def grid(header: list[str], rows: list[list[Any]]) -> str:
    """A plain table in aligned columns, drawn by Rich."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(
        file=io.StringIO(),
        width=max(80, 40 * len(header)),
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
    )  # names and paths are not markup
    console.print(table)
    return console.file.getvalue().strip("\n")


def markdown(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in (header, ["---"] * len(header), *rows))


def as_csv(records: list[dict[str, Any]]) -> str:
    """Records as CSV, a column for every key that any of them has."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for r in records for k in r)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def render(summary: dict[str, Any], form: Format) -> str:
    """An evaluation's summary in the format asked for."""
    if form is Format.json:
        return json.dumps(summary, indent=2)
    if form is Format.junit:
        return _junit(summary)
    header, row = _row(summary)
    if form is Format.csv:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([header, row])
        return out.getvalue()
    if form is Format.md:
        return markdown(header, [row])
    return "\n".join([grid(header, [row]), *_notes(summary)])


def _row(s: dict[str, Any]) -> tuple[list[str], list[Any]]:
    header = ["recipe", "dataset", "head", "solver", "task", "episodes", "accuracy %", "± 95 %", "seconds"]
    if s.get("protocol") == "classification":
        header[2], header[5:5] = "classifier", ["top-5 %"]
        header[6] = "pictures"
        return header, [
            s["recipe"],
            s["dataset"],
            s["classifier"],
            s["solver"] or "-",
            f"{s['classes']} classes",
            f"{s['top5']:.2f}",
            s["pictures"],
            f"{s['accuracy']:.2f}",
            f"{s['ci95']:.2f}",
            f"{s['seconds']['total']:.1f}",
        ]
    task = f"{s['way']}-way {s['shot']}-shot"
    row = [
        s["recipe"],
        s["dataset"],
        s["head"],
        s["solver"] or "-",
        task,
        s["episodes"],
        f"{s['accuracy']:.2f}",
        f"{s['ci95']:.2f}",
        f"{s['seconds']['total']:.1f}",
    ]
    return header, row


def _notes(s: dict[str, Any]) -> list[str]:
    notes = [f"interval: {s['interval']}; seed {s['seed']}; weights {s['weights']}"]
    if s.get("iterations"):
        notes.append(
            f"iterations of the solver: {s['iterations']['mean']:.2f} on average, spread "
            f"{s['iterations']['spread']:.2f}"
        )
    if s["not_converged"]:
        notes.append(f"WARNING: the solver did not converge on {s['not_converged']} problems")
    if "passed" in s:
        e = s["expect"]
        verdict = "passed" if s["passed"] else "MISSED"
        notes.append(f"check {verdict}: expected {e['accuracy']} ± {e['tolerance']} ({e['source']})")
    return notes


def _junit(s: dict[str, Any]) -> str:
    failed = s.get("passed") is False
    suite = ET.Element(
        "testsuite",
        name="fsl eval",
        tests="1",
        failures=str(int(failed)),
        errors="0",
        time=f"{s['seconds']['total']:.3f}",
    )
    case = ET.SubElement(
        suite, "testcase", classname=f"fsl.{s['dataset']}", name=s["recipe"], time=f"{s['seconds']['total']:.3f}"
    )
    over = f"{s['episodes']} episodes" if "episodes" in s else f"{s['pictures']} pictures"
    text = f"accuracy {s['accuracy']:.2f} ± {s['ci95']:.2f} % over {over}"
    if failed:
        e = s["expect"]
        ET.SubElement(case, "failure", message=f"{text}; expected {e['accuracy']} ± {e['tolerance']}").text = e[
            "source"
        ]
    ET.SubElement(case, "system-out").text = text
    ET.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode")
