"""`fsl import`: the authors' checkpoints as weights of this package."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import say_next
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import as_json


def import_weights(
    file: Annotated[
        Path,
        typer.Argument(dir_okay=False, help="A .pth checkpoint of DeepEMD or FEAT, or with this package's names."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="The .safetensors file to write.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            autocompletion=o.names_of("backbones"),
            help="Backbone the weights must fit (default: recognised from the file).",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Turn the authors' checkpoint of a backbone, and of a head where it has one's tensors, into weights for
    `--weights`, without running any code in it.
    """
    from fewshot_cli.weights.convert import convert, evaluation

    report = convert(file, out, backbone, force)
    if report["left_out"]:
        say(f"left out, because no part of this package has them: {', '.join(report['left_out'])}")
    say_next(evaluation(out, report["backbone"], report.get("head")))
    emit(as_json(report), kept=str(out))
