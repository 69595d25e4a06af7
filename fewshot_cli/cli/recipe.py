"""`fsl recipe ls|cat|cp|set|check`: list, print, copy, change or check recipes."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import completion, next_step
from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format, say_next
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format

app = typer.Typer(help="List, print, copy, change or check recipes.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(autocompletion=o.recipe_names, help="Name or path of a recipe.")]


def _changes(ctx: typer.Context, incomplete: str) -> list[str]:
    return [*completion.recipe_keys(ctx, incomplete), *(n for n in o.recipe_names(incomplete) if n.endswith(".yaml"))]


@app.command()
def ls(
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", autocompletion=o.names_of("datasets"), help="Only recipes of this dataset."),
    ] = None,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, Format.csv, Format.md, help="Format of the list on stdout.")
    ] = Format.table,
) -> None:
    """List the installed recipes, what they evaluate, and for which of them weights are at hand."""
    from fewshot_cli.cli.list import recipe_rows

    rows = recipe_rows(dataset)
    block = (list(rows[0]), [list(row.values()) for row in rows], ("solver", "expects", "task", "head", "backbone"))
    emit(in_format(format, rows, [block], records=rows))


@app.command()
def cat(name: Name) -> None:
    """Print a recipe's file."""
    from fewshot_cli.config.load import find_recipe
    from fewshot_cli.runtime.files import guarded

    path = find_recipe(name)
    with guarded(path):
        emit(path.read_text("utf-8"))


@app.command()
def cp(name: Name, target: Annotated[Path, typer.Argument(help="File or folder to copy it to.")]) -> None:
    """Copy a recipe as a starting point for your own."""
    from fewshot_cli.config.load import find_recipe
    from fewshot_cli.errors import FslError
    from fewshot_cli.runtime.files import guarded, write_text

    source = find_recipe(name)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise FslError(f"{target}: already exists; give another name")
    with guarded(source):
        text = source.read_text("utf-8")
    write_text(target, text)
    say(f"copied to {target}")
    say_next(f"fsl recipe set episode.shot=5 {target}")


@app.command("set")
def set_keys(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE... FILE",
            autocompletion=_changes,
            help="Keys with dots and their new values, as for --set, then a recipe file of your own.",
        ),
    ],
    data_root: o.DataRoot = None,
) -> None:
    """Change keys in your own recipe file; its comments, order and formatting stay.

    The file is replaced only when the result is a recipe.
    """
    from fewshot_cli.config import edit

    file, changes = _file_and_changes(words)
    path = edit.own_file(file)
    changed, recipe = edit.change(path, changes)
    for key, old, new in changed:
        say(f"{path}: {key} is {_shown(new)}" + (" as before" if old == new else f", was {_shown(old)}"))
    if recipe.expect and any(one.old != one.new for one in changed):
        say(
            f"note: the accuracy that {path} expects was measured before this change; "
            f"fsl eval --recipe {path} --write-expect NEW.yaml measures it anew"
        )
    say_next(next_step.for_recipe(str(path), recipe, o.data_root(data_root)))


def _file_and_changes(words: list[str]) -> tuple[str, list[str]]:
    """The one word that is a file, wherever it stands, and the others. Raises `FslError`."""
    from fewshot_cli.errors import FslError

    files = [word for word in words if "=" not in word or Path(word).is_file()]
    changes = [word for word in words if word not in files]
    if len(files) != 1 or not changes:
        what = "no file" if not files else "nothing to change" if not changes else f"several files ({', '.join(files)})"
        raise FslError(
            f"recipe set was given {what}; write KEY=VALUE and one recipe file, as in `fsl recipe set episode.shot=5 "
            "mine.yaml`"
        )
    return files[0], changes


def _shown(value: object) -> str:
    """A value as one writes it after `KEY=`."""
    import json

    return value if isinstance(value, str) else json.dumps(value)


@app.command()
def check(
    names: Annotated[
        list[str],
        typer.Argument(autocompletion=o.recipe_names, help="Names or paths of recipes."),
    ],
) -> None:
    """Check recipes: YAML, keys, types, ranges, and that every part is known."""
    from fewshot_cli.config.load import load_recipe

    for name in names:
        load_recipe(name)
        say(f"{name}: in order")
