"""`fsl export`: a model to deploy elsewhere."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import Format


def export(
    out: Annotated[
        Path, typer.Option("--out", "-o", dir_okay=False, help="File to write: .onnx, or .pt2 for torch.export.")
    ],
    support: Annotated[
        Path | None,
        typer.Option(
            "--support", help="Labelled examples as for classify: heads sfc and prototype are exported whole."
        ),
    ] = None,
    recipe: o.PhotoRecipe = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    class_level: o.ClassLevel = None,
    skip_bad: o.SkipBad = False,
    format: Annotated[Format, o.format_option(Format.table, Format.json)] = Format.table,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Write a model as ONNX or as an archive of torch.export, checked against the one here to 1e-4."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.predict.export import ENDINGS
    from fewshot_cli.predict.export import export as write

    if out.suffix not in ENDINGS:
        raise FslError(f"{out}: must end in {' or '.join(ENDINGS)}")
    o.refuse_existing(out, force)
    taking = o.taking(support, "--support", class_level, skip_bad)
    loaded = load_recipe(o.photo_recipe(recipe, 5), sets, None, seed)
    result = write(loaded, support, out, weights, o.data_root(data_root), taking)
    emit(in_format(format, result, [(["what", "is"], _rows(result))]))


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("file", f"{result['path']}, {result['bytes'] / 1e6:.1f} MB"),
        ("input", f"images {_shape(result['input'])}, {result['image']['input']}"),
        ("output", f"{result['output'][0]} {_shape(result['output'])}"),
        ("checked", f"off by {result['relative_error']:.1e} of the largest output"),
    ]
    if result["classes"]:
        rows.append(("classes", ", ".join(result["classes"])))
        rows.append(("exact logits", f"differ by at most {result['logits_from_exact']:.2g} on the examples"))
    return rows


def _shape(words: list[Any]) -> str:
    return f"[{', '.join(map(str, words[1:]))}]"
