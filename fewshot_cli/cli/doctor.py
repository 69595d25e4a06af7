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
    data_root: o.DataRoot = None,
) -> None:
    """Say what works on this machine and what is missing, or run the contract suite on parts.

    The exit code is 1 when a check fails.
    """
    rows = _contract(check) if check else _machine(o.data_root(data_root))
    header = list(dict.fromkeys(key for row in rows for key in row))
    emit(in_format(format, rows, [(header, [[row.get(key, "") for key in header] for row in rows])]))
    failed = [row for row in rows if row.get("outcome") == "failed"]
    if failed:
        say(f"fsl: {len(failed)} of {len(rows)} checks failed")
        raise typer.Exit(Exit.GATE)


def _machine(root: Path) -> list[dict[str, str]]:
    import torch

    from fewshot_cli.kernels import compile as kernels
    from fewshot_cli.registry import entries
    from fewshot_cli.runtime.runs import versions

    rows = [{"what": name, "state": version} for name, version in versions().items()]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows.append({"what": "GPU", "state": ", ".join(gpus) or "none that PyTorch sees"})
    rows.append({"what": "CPU threads", "state": str(torch.get_num_threads())})
    stores = sorted(p.name for p in root.iterdir() if (p / "index.json").is_file()) if root.is_dir() else []
    place = kernels.folder()
    reason = kernels.unwritable_reason(place)
    kept = f"kept in {place}" if reason is None else f"compiled anew in each process: {place}: {reason}"
    rows.append({"what": "compiled kernels", "state": kept})
    rows.append({"what": f"data in {root}", "state": ", ".join(stores) or "none prepared; fsl prepare NAME"})
    for name, entry in entries("solvers").items():
        try:
            reason = entry.load().unavailable_reason()
        except FslError as error:
            reason = str(error)
        rows.append({"what": f"solver {name}", "state": "works" if reason is None else f"does not: {reason}"})
    return rows


def _contract(words: list[str]) -> list[dict[str, str]]:
    from fewshot_cli.registry import entries, working_solvers
    from fewshot_cli.testing.parts import outcome, suite

    parts: dict[tuple[str, str], None] = {}
    for word in words:
        kind, _, name = word.partition(":")
        if kind not in KINDS or not name:
            kinds = ", ".join(KINDS)
            raise FslError(
                f"--check {word}: write KIND:NAME with a kind of {kinds}; try --check solver:network_simplex"
            )
        known = working_solvers() if kind == "solver" else list(entries(f"{kind}s"))
        parts |= dict.fromkeys((kind, one) for one in (known if name == "all" else [name]))
    rows = []
    for kind, name in parts:
        for label, check in suite(kind, name).items():
            result, said = outcome(check)
            rows.append({kind: name, "check": label, "outcome": result, "what": said})
    return rows
