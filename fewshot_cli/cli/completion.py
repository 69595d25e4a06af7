"""Shell completion: of `--set` keys and their values and of run folders, and how bash and zsh are told.

It must answer at once, so nothing here imports PyTorch or pydantic.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from fewshot_cli.config.outline import Key, Keys

PHOTO_RECIPE, EVAL_RECIPE = "images_5w5s_lite0", "glyphs_5w1s"  # whose parts' options are completed without --recipe
_PLAIN = ("name", "expect", "description")  # keys that nobody sets on the command line


def recipe_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """`KEY=` of `--set` for the command's recipe, and `KEY=VALUE` after the equals sign."""
    from fewshot_cli.config import outline

    keys = {key: value for key, value in outline.recipe_keys().items() if key not in _PLAIN}
    recipe = ctx.params.get("recipe_argument") or ctx.params.get("recipe") or ctx.params.get("file")
    chosen = _chosen(str(recipe or _usual_recipe(ctx)), ctx.params.get("sets") or ctx.params.get("changes") or ())
    return _matching(dict(_flat(keys, (), chosen, incomplete)), incomplete)


def option_keys(kind: str | None = None) -> Callable[[typer.Context, str], list[str]]:
    """A completion function for `--set` of a verb with one part, of this kind or of that which the command names."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from fewshot_cli.config import outline

        plural = kind or f"{str(ctx.params.get('kind') or '').removesuffix('s')}s"
        keys = outline.option_keys(plural, str(ctx.params.get("name")))
        return _matching(dict(_flat(keys, (), {}, incomplete)), incomplete)

    return complete


def run_folders(incomplete: str) -> list[str]:
    """The folders of runs below `runs/` that begin with this text, and those in the folder that it names."""
    found = []
    for folder, _, files in os.walk(os.path.dirname(incomplete) or "runs"):
        if "config.json" in files and folder != ".":
            found.append(folder)
    return sorted(name for name in found if name.startswith(incomplete))[:200]


def _usual_recipe(ctx: typer.Context) -> str:
    return PHOTO_RECIPE if ctx.info_name in ("classify", "calibrate", "match", "retrieve") else EVAL_RECIPE


def _chosen(recipe: str, sets: Any) -> dict[tuple[str, ...], str]:
    """The parts of a recipe by place, as the `--set` before this one change them."""
    from fewshot_cli.config.places import PARTS, chosen_parts

    chosen = chosen_parts(os.path.expanduser(recipe))
    for key, _, value in (str(text).partition("=") for text in sets):
        place = tuple(key.removesuffix(".name").split("."))
        if place in PARTS:
            chosen[place] = value
    return chosen


def _flat(
    keys: "Keys", place: tuple[str, ...], chosen: Mapping[tuple[str, ...], str], incomplete: str
) -> Iterator[tuple[tuple[str, ...], "Key"]]:
    """The keys that can be set and may be meant, by their place, with those of the chosen parts' options."""
    from fewshot_cli.config import outline
    from fewshot_cli.config.places import PARTS

    for word, key in keys.items():
        here, meant = (*place, word), incomplete.partition("=")[0]
        name = ".".join(here)
        if not (meant.startswith(name) or name.startswith(meant)):
            continue
        if key.inside:
            yield from _flat(key.inside, here, chosen, incomplete)
            continue
        yield here, key
        if here in PARTS and (part := chosen.get(here) or key.default):
            yield from _flat(outline.option_keys(PARTS[here], part), here, {}, incomplete)


def _matching(keys: Mapping[tuple[str, ...], "Key"], incomplete: str) -> list[str]:
    """`KEY=` of the keys that begin with the text, or `KEY=VALUE` of the values of the key before the equals sign."""
    name, equals, begin = incomplete.partition("=")
    if not equals:
        names = map(".".join, keys)
        return [f"{key}=" for key in names if key.startswith(incomplete)]
    place = tuple(name.split("."))
    values = _values(place, keys[place]) if place in keys else ()
    return [f"{name}={value}" for value in values if value.startswith(begin)]


def _values(place: tuple[str, ...], key: "Key") -> tuple[str, ...]:
    """The values that a key may have, where these can be counted."""
    from fewshot_cli.config.places import PARTS
    from fewshot_cli.registry import entries

    kind = {("dataset", "name"): "datasets", ("weights",): "weights", **PARTS}.get(place)
    return (*(entries(kind) if kind else key.choices), *(("own", "none") if place == ("weights",) else ()))


# A word that ends so goes on: no space follows it.
_OPEN = ("=", "/", ":")
_BASH = """
%(complete_func)s() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _FSL_WORD="${COMP_WORDS[COMP_CWORD]}" \\
                   _FSL_LINE="${COMP_LINE:0:$COMP_POINT}" %(autocomplete_var)s=complete_bash $1 2>/dev/null ) )
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/:] ]]; then compopt -o nospace 2>/dev/null; fi
    return 0
}

complete -o default -F %(complete_func)s %(prog_name)s
"""


def prepare() -> None:
    """Let Typer's completion complete after `=` and `:`, at which bash breaks words, and leave out the space after what
    goes on, where this process was started to complete, or to install or show the shell's part of it.

    Where a version of Typer has other insides than these, its own completion is left as it is.
    """
    completes = "_FSL_COMPLETE" in os.environ
    if not completes and not any(word.endswith("-completion") for word in sys.argv[1:2]):
        return
    try:
        from typer import _completion_shared
        from typer._completion_classes import BashComplete, ZshComplete
        from typer.core import TyperArgument, TyperOption
    except ImportError:
        return
    _completion_shared._completion_scripts["bash"] = _BASH
    if completes:
        ours: tuple[tuple[type, str, Callable[..., Any]], ...] = (
            (BashComplete, "get_completion_args", _bash_words),
            (BashComplete, "format_completion", _bash_reply),
            (ZshComplete, "complete", _zsh_reply),
            (TyperArgument, "process_value", _as_it_is),
            (TyperOption, "process_value", _as_it_is),
        )
        for cls, name, function in ours:
            setattr(cls, name, function)


def _as_it_is(_: Any, context: Any, value: Any) -> Any:
    """A word of the command line, unchecked: to check it imports pydantic, which takes longer than all the rest."""
    return value


def _split(line: str) -> tuple[list[str], str]:
    """The words of a command line before the one at its end, and that one, which may be unfinished."""
    import shlex

    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words += lexer
    except ValueError:  # an open quotation mark
        words.append(lexer.token)
    if not line or line[-1].isspace():
        words.append("")
    return words[1:-1], words[-1]


def _bash_words(_: Any) -> tuple[list[str], str]:
    """The words before the current one, and that one whole, which bash has broken at `=` and `:`."""
    if "_FSL_LINE" in os.environ:
        return _split(os.environ["_FSL_LINE"])
    words, at = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])  # Typer's own script
    return words[1:at], words[at] if at < len(words) else ""


def _bash_reply(_: Any, item: Any) -> str:
    """A completion without what lies before the last place at which bash has broken the current word."""
    whole, value = _split(os.environ.get("_FSL_LINE", ""))[1], str(item.value)
    if whole.startswith("-"):  # --option=value
        whole = whole.partition("=")[2]
    broken = os.environ.get("_FSL_WORD", whole)
    broken = "" if broken in ("=", ":") else broken
    before = whole.removesuffix(broken)
    return value.removeprefix(before) if before.endswith(("=", ":")) else value


def _zsh_reply(shell: Any) -> str:
    """What zsh evaluates: descriptions as Typer writes them, and what goes on without a space after it."""
    import shlex

    items = shell.get_completions(*shell.get_completion_args())
    if not items:
        return "_files"
    going_on = [shlex.quote(str(item.value)) for item in items if str(item.value).endswith(_OPEN)]
    closed = [shell.format_completion(item) for item in items if not str(item.value).endswith(_OPEN)]
    parts = [f"compadd -S '' -- {' '.join(going_on)}"] if going_on else []
    parts += ["_arguments '*: :((" + " ".join(closed) + "))'"] if closed else []
    return "; ".join(parts)
