"""What every verb has: the options of its manners (`--quiet`, `--debug` …), its help, `~` in paths, a recipe argument.

Importing it must stay cheap: no torch, no pydantic.
"""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fewshot_cli.cli import help as pages
from fewshot_cli.cli import options as o
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import doing, emit, manners
from fewshot_cli.version import __version__

COMMON = ("quiet", "verbose", "json_log", "wide", "debug", "help_all")  # options of `fsl` that every verb has, too


class Verb(TyperCommand):
    """A verb, with our own help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write its page."""
        formatter.write(pages.page(self, ctx))


class Verbs(TyperGroup):
    """A group of verbs, with our own help; the options in `COMMON` that it declares are options of each of them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        common = [option for option in self.params if option.name in COMMON]
        pending = list(self.commands.values())
        while pending:
            command = pending.pop()
            command.params += [option for option in common if option not in command.params]
            pending += getattr(command, "commands", {}).values()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write its page."""
        formatter.write(pages.page(self, ctx))


def _print_version(given: bool) -> None:
    if given:
        emit(f"fsl {__version__}")
        raise typer.Exit


def _print_all_help(ctx: typer.Context, given: bool) -> None:
    if given:
        typer.echo(pages.page(ctx.command, ctx, everything=True))
        raise typer.Exit


def _remember_debug(ctx: typer.Context, given: bool) -> None:
    if given and ctx.obj is not None:
        ctx.obj["debug"] = True


def _manner(name: str) -> Callable[[bool], None]:
    def remember(given: bool) -> None:
        if given:
            setattr(manners, name, True)

    return remember


def _flag(*names: str, help: str, callback: Callable[..., None]) -> Any:
    """A flag that acts before the verb does, and that the verb is not told."""
    return typer.Option(
        *names, callback=callback, expose_value=False, is_eager=True, rich_help_panel=o.MANNERS, help=help
    )


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[
        bool, _flag("--quiet", "-q", help="No messages but warnings and errors.", callback=_manner("quiet"))
    ] = False,
    verbose: Annotated[
        bool, _flag("--verbose", "-v", help="More messages, with the time of each.", callback=_manner("verbose"))
    ] = False,
    json_log: Annotated[
        bool, _flag("--json-log", help="Messages and progress as JSON lines.", callback=_manner("json_log"))
    ] = False,
    wide: Annotated[
        bool, _flag("--wide", help="All columns of tables, however wide.", callback=_manner("wide"))
    ] = False,
    debug: Annotated[bool, _flag("--debug", help="Show tracebacks of errors.", callback=_remember_debug)] = False,
    help_all: Annotated[
        bool, _flag("--help-all", help="This help with every option.", callback=_print_all_help)
    ] = False,
) -> None:
    """Few-shot image classification by optimal matching: a recipe in, an accuracy with its interval out."""


def help_of(verb: Callable[..., None]) -> str:
    """The docstring of a verb with one line per paragraph, since Typer keeps line breaks."""
    return "\n\n".join(part.replace("\n", " ") for part in (inspect.getdoc(verb) or "").split("\n\n"))


def framed(verb: Callable[..., None], asks: bool = False) -> Callable[..., None]:
    """The verb, whose paths may begin with `~` where no shell has replaced it: after `=`, and in variables; and which
    takes its recipe as an argument where it has `--recipe` and no argument.

    A value that looks like an option is the next option, and the value was forgotten: that is a `FslError`.
    """

    def expanded(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(expanded(name, one) for one in value)
        if isinstance(value, str | Path) and str(value).startswith("--"):
            raise FslError(
                f"{value} stands where the value of --{name.replace('_', '-')} should be; give one, or write ./{value} "
                "for a file that is called so"
            )
        return Path(os.path.expanduser(value)) if isinstance(value, Path) else value

    signature = inspect.signature(verb)
    argued = "recipe" in signature.parameters and not any(map(_is_argument, signature.parameters.values()))

    @functools.wraps(verb)
    def run(**given: Any) -> None:
        named = given.pop(o.RECIPE_ARGUMENT, None)
        if named is not None:
            if given["recipe"] not in (signature.parameters["recipe"].default, named):
                raise FslError(f"{named} and --recipe {given['recipe']} are two recipes; give one of them")
            given["recipe"] = named
        known = {name: expanded(name, value) for name, value in given.items()}
        if not asks:
            doing("loading PyTorch" if "device" in given else "loading")
        verb(**known)

    if argued:
        declared = _as_argument(signature.parameters["recipe"])
        recipe = inspect.Parameter(o.RECIPE_ARGUMENT, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=declared)
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), recipe]
        )
        run.__annotations__ = {**verb.__annotations__, o.RECIPE_ARGUMENT: declared}
    return run


def _as_argument(recipe: inspect.Parameter) -> Any:
    """The declaration of a verb's `--recipe` as an argument."""
    option = recipe.annotation.__metadata__[0]
    says = option.help if recipe.default is None else f"{option.help.rstrip('.')} (default: {recipe.default})."
    return Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", autocompletion=o.recipe_names, show_default=False, help=says),
    ]


def _is_argument(parameter: inspect.Parameter) -> bool:
    notes = getattr(parameter.annotation, "__metadata__", ())
    return any(isinstance(note, typer.models.ArgumentInfo) for note in notes)
