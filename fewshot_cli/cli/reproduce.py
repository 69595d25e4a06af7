"""`fsl reproduce`: a dataset's published accuracies from nothing, with a report."""

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.runtime.console import emit, say


class Form(StrEnum):
    """Formats of the report on stdout."""

    md = "md"
    json = "json"


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
    format: Annotated[Form, typer.Option("--format", help="Format of the report on stdout.")] = Form.md,
) -> None:
    """Prepare, pre-train, meta-train and evaluate at 1 and 5 shots; the same command continues what was interrupted."""
    from fewshot_cli.papers import reproduce as work
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import launch

    world = launch(resolve(device), devices, nodes)
    path = run_dir or Path("runs") / "reproduce" / name
    report = work.reproduce(
        name, list(sets or []), source, o.data_root(data_root), path, world, shlex.join(["fsl", *sys.argv[1:]])
    )
    say(f"report: {path / 'report.md'}")
    emit(
        json.dumps(report, indent=2) if format is Form.json else work.as_markdown(report),
        kept=str(path / "report.json"),
    )
