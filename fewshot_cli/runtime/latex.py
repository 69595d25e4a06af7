"""Tables for LaTeX, with the lines of the package booktabs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from fewshot_cli.runtime.shown import unsteered

Mark = Literal["best", "tied"]
TIED = "not significantly different from the best (paired, Holm, 5 \\%)"
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "#$%&_"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\textquotedbl{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "–": "--",
    "…": r"\ldots{}",
}
_NUMBER = re.compile(r"[-+<]?[0-9][0-9.,]*( ± [0-9.]+)?%?|-")


def latex(
    header: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    marks: Mapping[tuple[int, int], Mark] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """A table as a `tabular`, for \\input into a table of one's own; notes are comments above it.

    `marks` says by row and column which cells hold the best value of their kind, in bold, and which one that does not
    differ significantly from it, with a dagger that is explained below. Columns of numbers are aligned to the right.
    """
    body, marks = [list(map(str, row)) for row in rows], marks or {}
    numeric = [all(_NUMBER.fullmatch(row[c]) or not row[c] for row in body) for c in range(len(header))]
    columns = "".join("r" if right and body else "l" for right in numeric)
    lines = [f"% {line}" for note in notes for line in unsteered(note).splitlines()]
    lines += ["% needs \\usepackage{booktabs,textcomp}", f"\\begin{{tabular}}{{{columns}}}", "  \\toprule"]
    lines += [_line(map(escape, map(str, header))), "  \\midrule"]
    lines += [_line(_marked(cell, marks.get((r, c))) for c, cell in enumerate(row)) for r, row in enumerate(body)]
    lines.append("  \\bottomrule")
    if "tied" in marks.values():
        lines.append(f"  \\multicolumn{{{len(header)}}}{{l}}{{\\footnotesize $^\\dagger$ {TIED}}} \\\\")
    return "\n".join([*lines, "\\end{tabular}"])


def _line(cells: Iterable[str]) -> str:
    return f"  {' & '.join(cells)} \\\\"


def _marked(cell: str, mark: Mark | None) -> str:
    """A cell in bold up to its interval, or with a dagger."""
    if mark == "best":
        value, interval, half = cell.partition(" ± ")
        return f"\\textbf{{{_math(value)}}}{escape(interval)}{escape(half)}"
    return f"{_math(cell)}$^\\dagger$" if mark == "tied" else _math(cell)


def _math(cell: str) -> str:
    """A cell whose leading sign, if it is a number's, is a minus and no hyphen."""
    text = escape(cell)
    return f"$-${text[1:]}" if re.match(r"-[0-9.]", cell) else text


def escape(text: str) -> str:
    """Text as LaTeX prints it; characters that it reads as commands are escaped, line breaks are spaces."""
    return "".join(_ESCAPED.get(character, character) for character in unsteered(" ".join(text.split("\n"))))
