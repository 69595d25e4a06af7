"""What `fsl eval` prints: a sentence with a table, JSON, CSV, Markdown, LaTeX, or a test case for a CI server."""

from collections.abc import Mapping
from typing import Any

from fewshot_cli.cli import output
from fewshot_cli.evaluation.sentences import ends, measured, sentence
from fewshot_cli.runtime.latex import latex
from fewshot_cli.runtime.render import Format, JUnitCase, as_json, csv_table, junit, markdown


def in_format(summary: Mapping[str, Any], form: Format) -> str:
    """The result of `fsl eval` in a format."""
    if form is Format.json:
        return as_json(summary)
    if form is Format.junit:
        return junit("fsl eval", [_junit_case(summary)])
    row = _row(summary)
    cells = list(row.values())
    if form is Format.csv:
        return csv_table(list(row), [cells])
    header = ["images" if column == "pictures" else column for column in row]  # the CSV keeps its column's name
    if "pictures" in summary and "± 95 %" in header:
        place = header.index("± 95 %")
        header[place], cells[place] = "95 % interval", "{:.2f} to {:.2f}".format(*ends(summary))
    if form in (Format.md, Format.github):
        return markdown(header, [cells])
    if form is Format.latex:
        return latex(header, [cells], notes=_notes(summary))
    least = ("recipe", "episodes", "task", "seconds", "external data", "dataset", "images")
    return output.in_format(form, None, [(header, [cells], least)], ["\n".join(_notes(summary))], (), sentence(summary))


def _row(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The result by column."""
    begin = {"recipe": summary["recipe"], "dataset": summary["dataset"]}
    solver = summary["solver"] or "-"
    if summary.get("protocol") == "classification":
        middle = {
            "classifier": summary["classifier"],
            "solver": solver,
            "task": f"{summary['classes']} classes",
            "top-5 %": f"{summary['top5']:.2f}",
            "pictures": summary["pictures"],
        }
    else:
        middle = {
            "head": summary["head"],
            "solver": solver,
            "task": f"{summary['way']}-way {summary['shot']}-shot",
            "episodes": summary["episodes"],
        }
    end = {
        "accuracy %": f"{summary['accuracy']:.2f}",
        "± 95 %": "" if summary["ci95"] is None else f"{summary['ci95']:.2f}",
        "seconds": f"{summary['seconds']['total']:.1f}",
    }
    if summary["not_converged"]:
        end["not converged"] = str(summary["not_converged"])
    if summary.get("external"):
        end["external data"] = ", ".join(summary["external"])
    return begin | middle | end


def _notes(summary: Mapping[str, Any]) -> list[str]:
    kind = summary["interval"].partition(", the distance")[0]  # both ends are printed
    notes = [f"interval: {kind}; seed {summary['seed']}; weights {summary['weights']}"]
    if iterations := summary.get("iterations"):
        notes.append(
            f"iterations of the solver: {iterations['mean']:.2f} on average, standard deviation "
            f"{iterations['spread']:.2f}"
        )
    if summary["not_converged"]:
        notes.append(output.not_converged(summary["not_converged"]))
    if "passed" in summary:
        expect = summary["expect"]
        verdict = "passed" if summary["passed"] else "MISSED"
        notes.append(f"check {verdict}: expected {expect['accuracy']} ± {expect['tolerance']} ({expect['source']})")
    return notes


def _junit_case(summary: Mapping[str, Any]) -> JUnitCase:
    text = f"accuracy {measured(summary)}"
    if summary["not_converged"]:
        text += f"; {output.not_converged(summary['not_converged'])}"
    if summary.get("external"):
        text += f"; external data: {', '.join(summary['external'])}"
    failure, source = None, ""
    if summary.get("passed") is False:
        expect = summary["expect"]
        failure, source = f"{text}; expected {expect['accuracy']} ± {expect['tolerance']}", expect["source"]
    return JUnitCase(
        name=summary["recipe"],
        classname=f"fsl.{summary['dataset']}",
        seconds=summary["seconds"]["total"],
        text=text,
        failure=failure,
        failure_text=source,
    )
