"""`fsl reproduce`: a dataset's published accuracies from scratch, with a report."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format, as_json
from fewshot_cli.runtime.roots import RUNS


def _names(incomplete: str) -> list[str]:
    from fewshot_cli.papers.reproduce import names

    return [name for name in names() if name.startswith(incomplete)]


def reproduce(
    name: Annotated[
        str, typer.Argument(autocompletion=_names, help="fc100, cifar_fs, cub, …, or with a backbone: fc100_conv64.")
    ],
    source: Annotated[
        Path | None, typer.Option("--from", help="Archive or folder of the dataset, if it is not prepared yet.")
    ] = None,
    sets: o.Set = None,
    device: o.Device = "auto",
    devices: o.Devices = None,
    nodes: o.Nodes = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    format: Annotated[
        Format, o.format_option(Format.md, Format.json, help="Format of the report on stdout.")
    ] = Format.md,
) -> None:
    """Prepare, pre-train, meta-train and evaluate at 1 and 5 shots; the same command continues what was interrupted."""
    from fewshot_cli.papers import reproduce as work
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import launch

    processes = launch(resolve(device), devices, nodes)
    path = run_dir or RUNS / "reproduce" / name
    report = work.reproduce(
        name, list(sets or []), source, o.data_root(data_root), path, processes, shlex.join(["fsl", *sys.argv[1:]])
    )
    say(f"report: {path / 'report.md'}")
    emit(as_json(report) if format is Format.json else work.as_markdown(report), kept=str(path / "report.json"))
