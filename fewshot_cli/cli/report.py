"""`fsl report`: one page, in one file, that shows what is in one run or several."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run folders of eval, pretrain or metatrain, or recipes: their newest runs."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="HTML file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    device: o.Device = "auto",
    data_root: o.DataRoot = None,
) -> None:
    """Write a page to look into runs: accuracies, classes, confusions, the hardest queries and what matched.

    It is one file that loads nothing from elsewhere. Images are taken from the prepared dataset, matches from the
    cached features; several evaluations are compared, episode by episode, with the first.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise FslError(f"{out}: a report is an HTML page; end its name in .html")
    o.refuse_existing(out, force)
    from fewshot_cli.report.page import report as write
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.run_folders import folder_of

    write([folder_of(run) for run in runs], out, o.data_root(data_root), resolve(device))
    emit(str(out))
