"""`fsl recipe cat|cp|check`: print, copy or check recipes."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.runtime.console import emit, say

app = typer.Typer(help="Print, copy or check recipes.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(autocompletion=o.recipe_names, help="Name or path of a recipe.")]


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
