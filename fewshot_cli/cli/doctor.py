"""`fsl doctor`: what works on this machine, and whether a part meets its contract."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format
from fewshot_cli.errors import Exit, FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format

KINDS = ("solver", "head", "backbone", "classifier", "extractor", "dataset")


def _checkable(incomplete: str) -> list[str]:
    from fewshot_cli.registry import entries

    names = [f"{kind}:{name}" for kind in KINDS for name in (*entries(f"{kind}s"), "all")]
    return [name for name in names if name.startswith(incomplete)]


def doctor(
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check",
            metavar="KIND:NAME",
            autocompletion=_checkable,
            help="Run the contract suite on a part, such as head:emd or solver:all; repeatable.",
        ),
    ] = None,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, help="Format of the report on stdout.")
    ] = Format.table,
    device: Annotated[
        str, typer.Option("--device", help="Where a solver under --check gets its problems: cpu, cuda or cuda:N.")
    ] = "cpu",
    data_root: o.DataRoot = None,
) -> None:
    """Say what works on this machine, what is missing and how to get it; or check parts by their contract.

    The exit code is 1 when a check fails, or when nothing would work here.
    """
    if not check:
        if device != "cpu":
            raise FslError(f"--device {device}: goes with --check solver:NAME; add one, or leave it out")
        return _machine(o.data_root(data_root), format)
    rows = _contract(check, device)
    header = list(dict.fromkeys(key for row in rows for key in row))
    emit(in_format(format, rows, [(header, [[row.get(key, "") for key in header] for row in rows])]))
    failed = [row for row in rows if row.get("outcome") == "failed"]
    if failed:
        say(f"fsl: {len(failed)} of {len(rows)} checks failed")
        raise typer.Exit(Exit.GATE)
    return None


def _machine(root: Path, form: Format) -> None:
    """Print the report on the machine."""
    from fewshot_cli.testing.machine import findings, verdict

    found = findings(root)
    said = verdict(found)
    result = [{"what": one.what, "state": one.state, "get": one.get} for one in found]
    result.append({"what": "verdict", "state": said, "get": ""})
    cells = [[one.what, one.state, one.get] for one in found]
    emit(in_format(form, result, [(["what", "state", "to get it"], cells)], [f"verdict: {said}"]))
    if any(one.broken for one in found):
        raise typer.Exit(Exit.GATE)


def _contract(words: list[str], device: str) -> list[dict[str, str]]:
    from fewshot_cli.registry import entries, working_solvers
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.testing.parts import outcome, suite

    place = resolve(device)
    parts: dict[tuple[str, str], None] = {}
    for word in words:
        kind, _, name = word.partition(":")
        if kind not in KINDS or not name:
            kinds = ", ".join(KINDS)
            raise FslError(
                f"--check {word}: write KIND:NAME with a kind of {kinds}; try --check solver:network_simplex"
            )
        if kind != "solver" and place.type != "cpu":
            raise FslError(f"--device {device}: only solvers are checked there; leave it out for --check {word}")
        known = working_solvers() if kind == "solver" else list(entries(f"{kind}s"))
        parts |= dict.fromkeys((kind, one) for one in (known if name == "all" else [name]))
    rows = []
    for kind, name in parts:
        for label, check in suite(kind, name, place).items():
            result, said = outcome(check)
            rows.append({kind: name, "check": label, "outcome": result, "what": said})
    return rows
