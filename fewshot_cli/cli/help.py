"""`--help`: usage with what is required, options in panels without the rare ones, two examples; all by `--help-all`."""

import inspect
import os
import shutil
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from fewshot_cli.cli import guide
from fewshot_cli.cli import options as o

SHOWN = 14  # options that a verb shows at most; those after them wait for --help-all
_WIDEST, _INDENT, _COLUMN = 100, "  ", 24
_TITLE, _NAME, _PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[0m"


def page(command: Any, ctx: Any, everything: bool = False) -> str:
    """The help of a verb or a group of verbs; with the rare options when `everything` is asked for."""
    wide = min(shutil.get_terminal_size().columns, _WIDEST)
    words = _words(ctx)
    said = guide.entry(words)
    blocks = [[f"{_styled(_TITLE, 'Usage:')} {said.usage or usage(command, ctx)}"]]
    blocks.append(_paragraphs(command.help or "", wide))
    if verbs := getattr(command, "commands", None):
        if not words:
            blocks.append([_styled(_TITLE, "Start with:"), *_example(guide.FIRST)])
        blocks += _verbs(verbs, words, wide)
    shown, rare = _panels(command)
    if everything:
        shown = {title: shown.get(title, []) + rare.get(title, []) for title in shown | rare}
    for title, params in shown.items():
        blocks.append(_panel(title, params, _annotations(command), wide))
    if said.examples:
        blocks.append([_styled(_TITLE, "Examples:"), *(line for one in said.examples for line in _example(one))])
    if rare and not everything:
        names = ", ".join(name_of(param) for params in rare.values() for param in params)
        blocks.append(_wrapped(f"{ctx.command_path} --help-all shows also {names}", wide))
    if command.epilog:
        blocks.append(_wrapped(command.epilog, wide))
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def usage(command: Any, ctx: Any) -> str:
    """The usage line: arguments and the options that must be given."""
    words = [ctx.command_path]
    if getattr(command, "commands", None):
        return " ".join([*words, "VERB", "[OPTIONS]"])
    annotations = _annotations(command)
    for param in _params(command):
        if param.param_type_name == "argument":
            name = _several(param, annotations)
            words.append(name if param.required else f"[{name}]")
    required = [param for param in _params(command) if param.param_type_name == "option" and param.required]
    words += [f"{name_of(param)} {_value(param, annotations)}" for param in required]
    return " ".join([*words, "[OPTIONS]"])


def spelled(param: Any, annotations: dict[str, Any]) -> str:
    """An option with its value, as help shows it: `-o, --out FILE`."""
    if param.param_type_name == "argument":
        return _several(param, annotations)
    names = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        names += f" / {max(param.secondary_opts, key=len)}"
    value = _value(param, annotations)
    return f"{names}{value}" if value.startswith("[") else f"{names} {value}".rstrip()


def _several(param: Any, annotations: dict[str, Any]) -> str:
    """An argument, with dots where there may be several."""
    return _value(param, annotations).removesuffix("...") + ("..." if param.nargs == -1 else "")


def annotations_of(command: Any) -> dict[str, Any]:
    """The declared types of a verb's parameters, by name."""
    return _annotations(command)


def _words(ctx: Any) -> str:
    """The words of a verb after `fsl`."""
    return ctx.command_path.partition(" ")[2]


def _params(command: Any) -> list[Any]:
    return [param for param in command.params if not getattr(param, "hidden", False)]


def _annotations(command: Any) -> dict[str, Any]:
    if command.callback is None:
        return {}
    return {name: parameter.annotation for name, parameter in inspect.signature(command.callback).parameters.items()}


def _panels(command: Any) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The options that are shown, by panel, arguments first, and those that are not."""
    shown: dict[str, list[Any]] = {}
    rare: dict[str, list[Any]] = {}
    count = 0
    argued = any(param.name == o.RECIPE_ARGUMENT for param in command.params)
    for param in _params(command):
        argument = param.param_type_name == "argument"
        title = getattr(param, "rich_help_panel", None) or ("Arguments" if argument else o.OPTIONS)
        if argued and param.name == "recipe":  # the argument is it
            title = o.RARELY
        seldom = title in o.RARE or (not argument and count >= SHOWN)
        count += not (argument or seldom)
        (rare if seldom else shown).setdefault(title, []).append(param)
    order = ["Arguments", o.OPTIONS]
    return ({title: shown[title] for title in sorted(shown, key=lambda t: order.index(t) if t in order else 2)}, rare)


def _panel(title: str, params: list[Any], annotations: dict[str, Any], wide: int) -> list[str]:
    lines = [_ruled(title, wide)]
    for param in params:
        lines += _two(spelled(param, annotations), _explained(param), wide)
    return lines


def _explained(param: Any) -> str:
    """What an option says, with its default where it does not say that itself."""
    text = param.help or ""
    default = o.DEFAULTS[param.name]() if param.name in o.DEFAULTS else _default(param)
    variable = getattr(param, "envvar", None)
    also = f", or ${variable}" if variable and not default.startswith("$") else ""
    if not default or "default" in text:
        return text
    return f"{text.rstrip('.')} (default: {default}{also})."


def _default(param: Any) -> str:
    value = getattr(param, "default", None)
    if callable(value) or param.required or value is None or isinstance(value, bool | list | tuple):
        return ""
    return str(value.value if isinstance(value, Enum) else value)


def _value(param: Any, annotations: dict[str, Any]) -> str:
    """What stands for the value of an option or argument."""
    if param.metavar:
        return str(param.metavar)
    if param.param_type_name == "argument":
        return str(param.name).upper().removesuffix("_ARGUMENT")
    if getattr(param, "is_flag", False):
        return ""
    base, declared = _declared(annotations.get(param.name))
    if base is int:
        return "N"
    if base is float:
        return "X"
    if isinstance(base, type) and issubclass(base, Path):
        file, folder = getattr(declared, "file_okay", True), getattr(declared, "dir_okay", True)
        return "FOLDER" if not file else "FILE" if not folder else "PATH"
    return name_of(param).removeprefix("--").upper()


def declared_type(param: Any, annotations: dict[str, Any]) -> tuple[Any, Any]:
    """The plain type of a parameter, and its declaration."""
    return _declared(annotations.get(param.name))


def _declared(annotation: Any) -> tuple[Any, Any]:
    notes: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *notes = get_args(annotation)  # type: ignore[assignment]
    inner = [part for part in get_args(annotation) if part is not type(None)]
    while inner:
        annotation = inner[0]
        inner = [part for part in get_args(annotation) if part is not type(None)]
    return annotation, notes[0] if notes else None


def name_of(param: Any) -> str:
    """The first long name of an option, or the name of an argument."""
    return str(next((name for name in param.opts if name.startswith("--")), param.opts[0]))


def _verbs(verbs: dict[str, Any], words: str, wide: int) -> list[list[str]]:
    """The verbs of a group, or of `fsl` in their groups."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for name, command in verbs.items():
        if command.hidden:
            continue
        said = guide.entry(f"{words} {name}".strip())
        first = inspect.cleandoc(command.help or "").partition("\n\n")[0].partition(". ")[0]
        rows.setdefault("Verbs" if words else said.group, []).append((name, said.says or first))
    order, known = (*guide.GROUPS, "Verbs"), [key.rpartition(" ")[2] for key in guide.GUIDE]
    for group in rows.values():
        group.sort(key=lambda row: known.index(row[0]) if row[0] in known else len(known))
    return [
        [_ruled(group, wide), *(line for name, says in rows[group] for line in _two(name, says, wide, 16))]
        for group in sorted(rows, key=order.index)
    ]


def _example(one: guide.Example) -> list[str]:
    says = f"{one.says} (needs {one.needs})" if one.needs else one.says
    wide = min(shutil.get_terminal_size().columns, _WIDEST)
    return [*(f"{_INDENT}# {line}" for line in _wrapped(says, wide - 4)), f"{_INDENT}{one.command}"]


def _ruled(title: str, wide: int) -> str:
    return _styled(_TITLE, f"─ {title} ".ljust(wide, "─"))


def _two(name: str, says: str, wide: int, column: int = _COLUMN) -> list[str]:
    """A name and what is said about it beside it, or below where the name is long."""
    begin = _INDENT + name
    lines = _wrapped(says, wide - column - 2) or [""]
    padded = [" " * (column + 2) + line for line in lines]
    if len(begin) <= column:
        padded[0] = _INDENT + _styled(_NAME, name) + padded[0][len(begin) :]
        return padded
    return [_INDENT + _styled(_NAME, name), *padded]


def _paragraphs(text: str, wide: int) -> list[str]:
    blocks = [_wrapped(block.replace("\n", " "), wide) for block in inspect.cleandoc(text).split("\n\n")]
    return [line for number, block in enumerate(blocks) for line in (*([""] if number else []), *block)]


def _wrapped(text: str, wide: int) -> list[str]:
    from textwrap import wrap

    return wrap(text, max(20, wide), break_long_words=False, break_on_hyphens=False)


def _styled(style: str, text: str) -> str:
    """The text as a terminal shows it; plain elsewhere, and where NO_COLOR is set."""
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"{style}{text}{_PLAIN}"
