"""`fsl import`: weights of the papers' authors become ours."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.runtime.console import emit, say


def import_weights(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="A .pth of DeepEMD or FEAT, or of our own names.")],
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="The .safetensors to write.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", autocompletion=o.names_of("backbones"), help="Backbone it must be of (default: as found)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT although it is there.")] = False,
    debug: o.Debug = False,
) -> None:
    """Turn the authors' checkpoint of a backbone into weights for `--weights`, without running any code in it."""
    from fewshot_cli.weights import foreign
    from fewshot_cli.weights.convert import convert

    report = convert(file, out, backbone, force)
    if report["left_out"]:
        say(f"left out, not of the backbone: {', '.join(report['left_out'])}")
    say(f"next: fsl eval --recipe mini_imagenet_5w1s --weights {out}{foreign.override(report['backbone'])}")
    emit(json.dumps(report, indent=2), kept=str(out))
