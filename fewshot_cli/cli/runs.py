"""`fsl runs ls|show|rm|path`: the runs that lie in the runs folder."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.completion import run_folders
from fewshot_cli.cli.output import in_format, say_next
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format, as_yaml, plus_minus
from fewshot_cli.runtime.roots import RUNS

if TYPE_CHECKING:  # importing it would read and write files' locks for --help
    from fewshot_cli.runtime.run_folders import RunFolder

app = typer.Typer(help="List, show, find or remove runs.", no_args_is_help=True)
Folder = Annotated[
    Path, typer.Option("--in", file_okay=False, help="Folder of the runs.", show_default=True, metavar="FOLDER")
]
Kind = Annotated[str | None, typer.Option("--kind", help="Only runs of this verb, such as eval or pretrain.")]


@app.command()
def ls(
    kind: Kind = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", autocompletion=o.recipe_names, help="Only runs of this recipe.")
    ] = None,
    folder: Folder = RUNS,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, Format.csv, Format.md, help="Format of the list on stdout.")
    ] = Format.table,
) -> None:
    """List runs, the newest first: recipe, state, date, accuracy, and size on disk."""
    from fewshot_cli.runtime.run_folders import find

    name = recipe and Path(recipe).name.removesuffix(".yaml")
    found = [run for run in find(folder) if kind in (None, run.kind) and name in (None, run.recipe)]
    header = ["run", "kind", "recipe", "date", "state", "accuracy %", "size"]
    records = list(map(_record, found))
    notes = [f"{len(found)} run{'s' * (len(found) != 1)}, {_bytes(sum(run.size for run in found))}"]
    if not found and format is Format.table:
        such = " such" if kind or recipe else ""
        return say(f"{folder}: there are no{such} runs; `fsl eval` makes one")
    return emit(
        in_format(format, records, [(header, map(_cells, found), ("kind", "recipe", "date", "size"))], notes, records)
    )


@app.command()
def show(
    run: Annotated[str, typer.Argument(autocompletion=run_folders, help="Folder of a run, or a recipe's name.")],
    folder: Folder = RUNS,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, help="Format of the facts on stdout.")
    ] = Format.table,
) -> None:
    """Show a run: its state and result, with what it was made, and the command that goes on from it.

    A recipe's name means the newest run of that recipe.
    """
    shown = _run_of(run, folder)
    facts = _facts(shown)
    if format is Format.json:
        return emit(in_format(format, {**facts, "summary": shown.summary, "config": shown.config}, []))
    emit(as_yaml({key: value for key, value in _readable(shown, facts).items() if value is not None}).rstrip())
    if (command := _next(shown)) is not None:
        say_next(command)
    return None


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", autocompletion=run_folders, help="Folders of runs.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    folder: Folder = RUNS,
) -> None:
    """Remove runs with all their files, after asking.

    A run that is in use is refused, and a folder that holds more than a run.
    """
    from fewshot_cli.runtime.run_folders import named, refuse_removal, remove

    found = {run.path.resolve(): run for run in (named(name, folder) for name in names)}
    for run in found.values():
        refuse_removal(run)
    size = _bytes(sum(run.size for run in found.values()))
    listed = ", ".join(str(run.path) for run in found.values())
    if not yes:
        if not sys.stdin.isatty():
            raise FslError(f"{listed}: nobody can be asked here whether to remove this ({size}); add --yes")
        if not typer.confirm(f"remove {listed} ({size})?", err=True):
            return say("nothing was removed")
    for run in found.values():
        remove(run)
    return say(f"removed {listed} ({size})")


@app.command()
def path(
    recipe: Annotated[str, typer.Argument(autocompletion=o.recipe_names, help="Name of a recipe.")],
    kind: Kind = None,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Also take a run that is not finished.")] = False,
    folder: Folder = RUNS,
) -> None:
    """Print the folder of a recipe's newest finished run, for scripts."""
    from fewshot_cli.runtime.run_folders import newest

    emit(str(newest(recipe, kind, unfinished, folder).path))


def _run_of(text: str, folder: Path) -> "RunFolder":
    """The run of this path; without a separator in the text, the newest of this recipe where there is one."""
    from fewshot_cli.runtime.run_folders import find, named

    if "/" not in text and not Path(text).exists():
        of_it = [run for run in find(folder) if run.recipe == text]
        if of_it:
            return of_it[0]
    return named(text, folder)


def _record(run: "RunFolder") -> dict[str, Any]:
    return {
        "run": str(run.path),
        "kind": run.kind,
        "recipe": run.recipe,
        "date": run.changed.isoformat(timespec="seconds"),
        "state": run.state,
        "accuracy": run.accuracy,
        "ci95": run.ci95,
        "bytes": run.size,
    }


def _cells(run: "RunFolder") -> list[str]:
    accuracy = "-" if run.accuracy is None else plus_minus(run.accuracy, run.ci95)
    date = f"{run.changed:%Y-%m-%d %H:%M}"
    return [str(run.path), run.kind, run.recipe, date, run.state, accuracy, _bytes(run.size)]


def _bytes(size: float) -> str:
    """A size on disk in the unit that makes it short."""
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"


def _readable(run: "RunFolder", facts: dict[str, Any]) -> dict[str, Any]:
    """The facts as people read them."""
    written = {
        "date": f"{run.changed:%Y-%m-%d %H:%M}",
        "accuracy": None if run.accuracy is None else f"{plus_minus(run.accuracy, run.ci95)} %",
        "size": _bytes(run.size),
    }
    return {key: value for key, value in (facts | written).items() if key not in ("ci95", "bytes")}


def _facts(run: "RunFolder") -> dict[str, Any]:
    """What is known of a run, in the order in which one asks."""
    config, summary = run.config, run.summary
    episode = (config.get("recipe") or {}).get("episode") or {}
    return {
        **_record(run),
        "in use by": run.holder,
        "dataset": ((config.get("recipe") or {}).get("dataset") or {}).get("name"),
        "split": summary.get("split"),
        "task": f"{episode['way']}-way {episode['shot']}-shot" if {"way", "shot"} <= episode.keys() else None,
        "episodes": summary.get("episodes"),
        "epochs": summary.get("epochs"),
        "interval": summary.get("interval"),
        "seed": (config.get("recipe") or {}).get("seed"),
        "weights": summary.get("weights"),
        "device": summary.get("device"),
        "parts": config.get("parts"),
        "versions": config.get("versions"),
        "files": sorted(path.name for path in run.path.iterdir() if not path.name.startswith(".")),
    }


def _next(run: "RunFolder") -> str | None:
    """The command that usually follows on a run."""
    from fewshot_cli.config.places import installed_recipes

    recipe = run.recipe if run.recipe in installed_recipes() else f"{run.recipe}.yaml"
    if run.state == "unfinished" and run.kind in ("eval", "pretrain", "metatrain", "finetune-sfc"):
        return f"fsl {run.kind} --recipe {recipe} --run-dir {run.path} --resume"
    if run.state == "finished" and run.kind in ("pretrain", "metatrain"):
        return f"fsl eval --recipe {recipe} --weights {run.path / 'weights.safetensors'}"
    return None
