"""`fsl doctor`: what works on this machine, and whether a solver keeps the contract."""

import inspect
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format
from fewshot_cli.errors import Exit, FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format


def _checkable(incomplete: str) -> list[str]:
    from fewshot_cli.registry import entries

    names = [f"solver:{name}" for name in (*entries("solvers"), "all")]
    return [name for name in names if name.startswith(incomplete)]


def doctor(
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check",
            metavar="solver:NAME",
            autocompletion=_checkable,
            help="Run the contract suite on a solver, or on solver:all; repeatable.",
        ),
    ] = None,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, help="Format of the report on stdout.")
    ] = Format.table,
    data_root: o.DataRoot = None,
) -> None:
    """Say what works on this machine and what is missing, or run the contract suite on solvers.

    The exit code is 1 when a check fails.
    """
    rows = _contract(check) if check else _machine(o.data_root(data_root))
    emit(in_format(format, rows, [(list(rows[0]), [list(row.values()) for row in rows])]))
    failed = [row for row in rows if row.get("outcome") == "failed"]
    if failed:
        say(f"fsl: {len(failed)} of {len(rows)} checks failed")
        raise typer.Exit(Exit.GATE)


def _machine(root: Path) -> list[dict[str, str]]:
    import torch

    from fewshot_cli.registry import entries
    from fewshot_cli.runtime.runs import versions

    rows = [{"what": name, "state": found} for name, found in versions().items()]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows.append({"what": "GPU", "state": ", ".join(gpus) or "none that PyTorch sees"})
    rows.append({"what": "CPU threads", "state": str(torch.get_num_threads())})
    stores = sorted(p.name for p in root.iterdir() if (p / "index.json").is_file()) if root.is_dir() else []
    rows.append({"what": f"data in {root}", "state": ", ".join(stores) or "none prepared; fsl prepare NAME"})
    for name, entry in entries("solvers").items():
        try:
            reason = entry.load().unavailable_reason()
        except FslError as fault:
            reason = str(fault)
        rows.append({"what": f"solver {name}", "state": "works" if reason is None else f"does not: {reason}"})
    return rows


def _contract(wanted: list[str]) -> list[dict[str, str]]:
    from fewshot_cli.registry import working_solvers
    from fewshot_cli.testing import solvers

    names: list[str] = []
    for word in wanted:
        kind, _, name = word.partition(":")
        if kind != "solver" or not name:
            raise FslError(f"--check {word}: is not of the form solver:NAME; try --check solver:network_simplex")
        names += working_solvers() if name == "all" else [name]
    rows = []
    for name in dict.fromkeys(names):
        case = solvers.case(name)
        for label, check in solvers.CHECKS.items():
            try:
                reason = check(case)
                outcome = ("passed", check.__doc__) if reason is None else ("skipped", reason)
            except solvers.Failed as fault:
                outcome = ("failed", str(fault))
            except Exception as fault:  # a third party's solver may raise anything
                outcome = ("failed", f"raises {type(fault).__name__}: {fault}")
            rows.append(
                {
                    "solver": name,
                    "check": label,
                    "outcome": outcome[0],
                    "what": inspect.cleandoc(outcome[1]).partition("\n\n")[0].replace("\n", " "),
                }
            )
    return rows
