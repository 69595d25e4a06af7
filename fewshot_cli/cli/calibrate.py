"""`fsl calibrate`: what the probabilities of your own classes are worth, and the temperature that makes them right."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format, say_next, warn_not_converged
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format


def calibrate(
    support: o.Support,
    labelled: Annotated[
        Path | None,
        typer.Option(
            "--labelled", help="More images as <class>/<image>; without them the examples are left out in turn."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", dir_okay=False, help="Draw right answers over probability (PNG, SVG or PDF)."),
    ] = None,
    recipe: o.PhotoRecipe = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    format: Annotated[Format, o.format_option(Format.table, Format.json)] = Format.table,
    device: o.Device = "auto",
    class_level: o.ClassLevel = None,
    skip_bad: o.SkipBad = False,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Fit the temperature of probabilities to labelled images, and print their calibration error before and after."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.data.user_images import Taking
    from fewshot_cli.figures import canvas
    from fewshot_cli.predict.calibrate import calibrate as fit
    from fewshot_cli.runtime.device import resolve

    if out is not None:
        canvas.check(out)
    loaded = load_recipe(o.photo_recipe(recipe, 5), sets, solver, seed)
    taking = Taking(class_level, skip_bad)
    result = fit(loaded, support, labelled, weights, o.data_root(data_root), resolve(device), taking)
    if out is not None:
        from fewshot_cli.figures.reliability import reliability

        reliability(out, result["bins"], f"{loaded.name}, {result['images']} images")
        say(f"figure: {out}")
    sentence = (
        f"calibration error {result['before']:.2f} % as they are, {result['after']:.2f} % at temperature "
        f"{result['temperature']:.4g}, on {result['images']} images"
    )
    emit(in_format(format, result, [_table(result)], [_note(result)], (), sentence))
    warn_not_converged(result["not_converged"])
    say_next(f"fsl classify IMAGES --support {support} --temperature {result['temperature']:.4g}")


def _table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [["as they are", "1", f"{result['before']:.2f}"]]
    rows.append(["calibrated", f"{result['temperature']:.4g}", f"{result['after']:.2f}"])
    return ["probabilities", "temperature", "calibration error %"], rows


def _note(result: dict[str, Any]) -> str:
    whose = "labelled images" if result["labelled"] else "examples, each left out of the support set once"
    return (
        f"{result['images']} {whose}, of which {result['accuracy']:.1f} % get the right label; to measure the error "
        "after calibration, each half gets the temperature that was fitted to the other"
    )
