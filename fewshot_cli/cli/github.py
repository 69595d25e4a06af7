"""`fsl eval --format github`: the summary of a GitHub job, and annotations of its workflow."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_cli.cli.output import not_converged
from fewshot_cli.evaluation.sentences import measured
from fewshot_cli.runtime.files import guarded

VARIABLE = "GITHUB_STEP_SUMMARY"  # names the file that GitHub shows as the job's summary


def publish(summary: Mapping[str, Any], tables: str) -> str:
    """Append the result to the job's summary, and return the annotations, which belong on stdout.

    Where GitHub names no file for the summary it follows them. Raises `DataError` when the file cannot be written.
    """
    level, verdict = _verdict(summary)
    accuracy = f"accuracy {measured(summary)}"
    lines = [_annotation(level, f"fsl eval: {summary['recipe']}", f"{accuracy}; {verdict}" if verdict else accuracy)]
    if summary["not_converged"]:
        lines.append(_annotation("warning", f"fsl eval: {summary['recipe']}", not_converged(summary["not_converged"])))
    mark = {"error": "❌ ", "warning": "⚠️ ", "notice": "✅ " if verdict else ""}[level]
    result = f"{mark}**{accuracy}**" + (f"; {_inert(verdict)}" if verdict else "")
    page = f"### fsl eval: {_inert(summary['recipe'])}\n\n{result}\n\n{tables}\n"
    file = os.environ.get(VARIABLE)
    if not file:
        return "\n".join([*lines, "", page])
    with guarded(file), Path(file).open("a", encoding="utf-8") as out:
        out.write(page + "\n")
    return "\n".join(lines)


def _verdict(summary: Mapping[str, Any]) -> tuple[str, str]:
    """The level of the annotation, and what `--check` found; nothing without it."""
    if "expect" not in summary:
        return "notice", ""
    expect = summary["expect"]
    if expect is None:
        return "warning", "not judged: the recipe expects nothing on this data with these weights"
    wanted = f"expected {expect['accuracy']} ± {expect['tolerance']} ({expect['source']})"
    return ("notice", f"passed: {wanted}") if summary["passed"] else ("error", f"missed: {wanted}")


def _annotation(level: str, title: str, message: str) -> str:
    """A workflow command; what would end it, or begin another, is escaped as GitHub wants it."""
    return f"::{level} title={_escaped(title, ':,')}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for one in ("%", "\r", "\n", *more):  # the percent sign first, since it is what escapes begin with
        text = text.replace(one, f"%{ord(one):02X}")
    return text


def _inert(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    line = " ".join(text.split())
    return "".join(f"\\{one}" if one in "\\`*_{}[]<>#|!~" else one for one in line)
