"""`fsl classify`: labels for your own images from a few examples."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.counted import sentence, told
from fewshot_cli.cli.output import in_format, warn_not_converged
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format, as_csv

if TYPE_CHECKING:
    from fewshot_cli.predict.classify import Classification


SORTING = "Sorting the images"  # a panel of the help


def classify(
    images: Annotated[list[Path] | None, typer.Argument(help="Images, or folders of images, to label.")] = None,
    support: Annotated[
        Path | None,
        typer.Option(
            "--support",
            help="Labelled examples: a folder or archive <class>/<image>, a CSV of file,label, or a prepared dataset "
            "(NAME or NAME:SPLIT).",
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option("--classifier", dir_okay=False, help="A classifier of finetune-sfc, in place of --support."),
    ] = None,
    recipe: o.PhotoRecipe = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.RareSolver = None,
    top: Annotated[
        int, typer.Option("--top", rich_help_panel=o.RESULT, min=1, help="Likeliest classes shown for each image.")
    ] = 2,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            rich_help_panel=o.RARELY,
            min=1e-6,
            max=1e6,
            help="Temperature of the probabilities, as `fsl calibrate` prints it.",
        ),
    ] = None,
    reject: Annotated[
        float | None,
        typer.Option(
            "--reject",
            min=0.001,
            max=0.9,
            help="Give no label to images that look like none of the classes; this share of them may still get one.",
        ),
    ] = None,
    set_of: Annotated[
        str | None,
        typer.Option(
            "--set-of", metavar="SHARE", help="Also give a set of labels that holds the right one this often (90%)."
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option("--explain", file_okay=False, help="Draw what matched for each answer into this folder."),
    ] = None,
    move: Annotated[
        Path | None,
        typer.Option(
            "--move", file_okay=False, rich_help_panel=SORTING, help="Move the images into this folder's class folders."
        ),
    ] = None,
    link: Annotated[
        Path | None,
        typer.Option(
            "--link", file_okay=False, rich_help_panel=SORTING, help="Link them there instead, and leave them in place."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", rich_help_panel=o.RARELY, help="Move or link without asking.")] = False,
    undo: Annotated[
        Path | None,
        typer.Option(
            "--undo",
            dir_okay=False,
            rich_help_panel=SORTING,
            help="Take back what --move or --link listed in this file.",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with images that are put into the folders, until interrupted.")
    ] = False,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, Format.csv, help="Format of the labels on stdout.")
    ] = Format.table,
    device: o.Device = "auto",
    class_level: o.ClassLevel = None,
    skip_bad: o.SkipBad = False,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Label your own images from a folder with one or a few examples per class."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.data.user_images import Taking
    from fewshot_cli.predict.classify import Asked, Classification
    from fewshot_cli.runtime.device import resolve

    if undo is not None:
        return _undo(undo)
    _check(images, support, classifier, (move, link), watch, explain)
    loaded = load_recipe(o.photo_recipe(recipe, 5), sets, solver, seed)
    asked, taking = Asked(reject, _share(set_of), temperature), Taking(class_level, skip_bad)
    made = Classification(loaded, support, classifier, weights, o.data_root(data_root), resolve(device), taking, asked)
    if watch:
        return _watch(made, images or [], top, format)
    return _once(made, images or [], top, format, explain, (move, link), yes)


def _check(
    images: list[Path] | None,
    support: Path | None,
    classifier: Path | None,
    sorting: tuple[Path | None, Path | None],
    watch: bool,
    explain: Path | None,
) -> None:
    """Refuse options that do not go together."""
    if not images:
        raise FslError("give images, or folders of images, to label")
    if (support is None) == (classifier is None):
        raise FslError(
            "give --support, a folder of examples, or --classifier, a file of `fsl finetune-sfc`, one of them"
        )
    if all(sorting):
        raise FslError("--move and --link both sort the images; give one of them")
    if watch and any((*sorting, explain)):
        raise FslError("--watch labels as images come; leave out --move, --link and --explain")
    if explain is not None and support is None:
        raise FslError("--explain shows the examples that matched, which --classifier does not hold; give --support")


def _share(text: str | None) -> float | None:
    """`--set-of` as a share."""
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise FslError(f"--set-of {text}: write a share such as 90% or 0.9")
    return share


def _once(
    made: "Classification",
    paths: list[Path],
    top: int,
    form: Format,
    explain: Path | None,
    sorting: tuple[Path | None, Path | None],
    yes: bool,
) -> None:
    """Label the images, print the labels, then draw and sort them."""
    images, result = made.label(paths)
    rows = result["pictures"]
    block = (*_table(rows, top), ("set", *(f"number {place}" for place in range(top, 2, -1)), "second"))
    emit(in_format(form, result, [block], [*_notes(result), *told(result)], _records(rows, top), sentence(result)))
    warn_not_converged(result["not_converged"])
    if explain is not None:
        from fewshot_cli.figures.explain import explain as draw
        from fewshot_cli.runtime.console import progress

        assert made.support is not None
        best = [row.get("best") or row["label"] for row in rows]
        with progress("explain", len(images)) as bar:
            drawn = draw(made.model, images, best, made.support, explain, bar.update)
        say(f"figures: {drawn} in {explain}")
    move, link = sorting
    if (folder := move or link) is not None:
        _sort([(row["picture"], row["label"]) for row in rows], folder, "move" if move else "link", yes)


def _sort(labelled: list[tuple[str, str | None]], folder: Path, how: Any, yes: bool) -> None:
    from fewshot_cli.predict.sort import carry_out, plan

    steps = plan(labelled, folder)
    if not yes and not typer.confirm(f"{how} {len(steps)} images into folders below {folder}?", err=True):
        return say("nothing was done")
    record = carry_out(steps, folder, how)
    return say(f"{len(steps)} images sorted into {folder}; fsl classify --undo {record} takes it back")


def _undo(record: Path) -> None:
    from fewshot_cli.predict.sort import undo

    say(f"{undo(record)} images are back where they were")


def _watch(made: "Classification", paths: list[Path], top: int, form: Format) -> None:
    """Label the images, then each one that is added, a line of text, CSV or JSON for each."""
    from fewshot_cli.predict.watch import labels_as_they_come

    for number, row in enumerate(labels_as_they_come(made, paths)):
        if form is Format.json:
            emit(json.dumps(row))
        elif form is Format.csv:
            header, line = as_csv(_records([row], top)).splitlines()
            emit(line if number else f"{header}\n{line}")
        else:
            emit("  ".join(cell for cell in _table([row], top)[1][0] if cell))


FEW = 30  # examples from which on a fitted temperature is worth something


def _likeliest(row: dict[str, Any], top: int) -> list[str]:
    return sorted(row["scores"], key=row["scores"].get, reverse=True)[:top]


def _records(rows: list[dict[str, Any]], top: int) -> list[dict[str, str]]:
    """The rows of the CSV: image, label, and the score of every class; with more than two asked for, the likeliest."""
    out = []
    for r in rows:
        record = {"picture": r["picture"], "label": r["label"] or "", "score": f"{r['score']:.6f}"}
        record |= {"probability": f"{r['probability']:.6f}"} if "probability" in r else {}
        record |= {"best": r["best"]} if "best" in r else {}
        record |= {"set": " ".join(r["set"])} if "set" in r else {}
        record |= {f"top{place}": name for place, name in enumerate(_likeliest(r, top), 1) if top > 2}
        out.append(record | {f"score:{name}": f"{score:.6f}" for name, score in r["scores"].items()})
    return out


def _table(rows: list[dict[str, Any]], top: int) -> tuple[list[str], list[list[str]]]:
    sure, all_of = ("probability", "probabilities") if rows and "probability" in rows[0] else ("score", "scores")
    others = ["second", *(f"number {place}" for place in range(3, top + 1))][: top - 1]
    lines = []
    for r in rows:
        line = [r["picture"], r["label"] or f"none (best: {r['best']})", f"{r[sure]:.3f}" if r["label"] else "-"]
        line += [f"{name} {r[all_of][name]:.3f}" for name in _likeliest(r, top)[1:]]
        lines.append(line + [""] * (2 + top - len(line)) + ([", ".join(r["set"])] if "set" in r else []))
    return ["image", "label", sure, *others, *(["set"] if rows and "set" in rows[0] else [])], lines


def _notes(result: dict[str, Any]) -> list[str]:
    examples = ", ".join(name if count is None else f"{name} {count}" for name, count in result["support"].items())
    notes = [
        f"examples: {examples}; recipe {result['recipe']}, weights {result['weights']}",
    ]
    if calibration := result.get("calibration"):
        note = f"probabilities: softmax at temperature {calibration['temperature']:.3g}"
        if calibration["images"]:
            note += (
                f", fitted to {calibration['images']} examples, each left out once (calibration error "
                f"{calibration['before']:.1f} % before, {calibration['after']:.1f} % after)"
            )
            if calibration["images"] < FEW:
                note += "; give more examples of each class before you rely on them"
        notes.append(note)
    else:
        notes.append("scores: a softmax over the classes, not calibrated; they are no probabilities")
    if reject := result.get("reject"):
        note = (
            f"no label where familiarity is below {reject['below']:.4g}; about {100 * reject['false_accept']:g} % of "
            "images that belong to none of the classes should reach it"
        )
        if reject["refused"]:
            note += (
                f", and {100 * reject['refused']:.0f} % of your examples, each left out once, would not: a larger "
                "--reject refuses fewer, and more classes or examples tell them apart better"
            )
        notes.append(note)
    return notes
