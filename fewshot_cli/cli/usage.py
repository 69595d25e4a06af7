"""Usage errors of the command line's parser, in our words: one sentence that says what, where and what to do next."""

import re
from difflib import get_close_matches
from enum import EnumType
from typing import Any

from fewshot_cli.cli import guide
from fewshot_cli.cli import help as pages
from fewshot_cli.cli import options as o

_QUOTED = re.compile(r"'(.*)' (?:is not|is a)|^(\S+) is not in the range", re.DOTALL)


def sentence(error: Any) -> str:
    """What the parser complains of; empty for a command without words, which is answered by its help."""
    kind, ctx = type(error).__name__, getattr(error, "ctx", None)
    command = ctx.command_path if ctx is not None else "fsl"
    if kind == "NoArgsIsHelpError":
        error.show()
        return ""
    if kind == "MissingParameter" and error.param is not None:
        return _missing(error.param, ctx, command)
    if kind == "NoSuchOption":
        return _unknown_option(error.option_name, ctx, command)
    if kind == "BadOptionUsage":
        return _bad_usage(error, ctx, command)
    if kind == "BadParameter" and error.param is not None:
        return _bad_value(error, ctx)
    return _other(error.format_message(), ctx, command)


def _missing(param: Any, ctx: Any, command: str) -> str:
    annotations = pages.annotations_of(ctx.command)
    what = (param.help or "").rstrip(".")
    if param.param_type_name == "option":
        spelled = pages.spelled(param, annotations).rpartition(", ")[2]
    else:
        spelled = pages.spelled(param, annotations)
    said = f"{_verb(command)} needs {spelled}: {_lowered(what)}"
    examples = guide.entry(command.partition(" ")[2]).examples
    return f"{said}; for example, {examples[0].command}" if examples else f"{said}; {command} --help says more"


def _lowered(text: str) -> str:
    """A sentence's beginning inside another one; abbreviations stay as they are."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _unknown_option(name: str, ctx: Any, command: str) -> str:
    known = [option for param in ctx.command.params for option in (*param.opts, *param.secondary_opts)]
    near = get_close_matches(name, [option for option in known if option.startswith("--")], 1, 0.7)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{_verb(command)} has no option {name}{hint}; {command} --help-all shows all"


def _verb(command: str) -> str:
    """A verb's words, for a message that begins with `fsl:` anyway."""
    return command.removeprefix("fsl ")


def _bad_usage(error: Any, ctx: Any, command: str) -> str:
    name = error.option_name
    if "does not take a value" in error.format_message():
        return f"{name} takes no value; write {name} alone"
    params = ctx.command.params if ctx is not None else []
    param = next((param for param in params if name in param.opts), None)
    what = f": {_lowered((param.help or '').rstrip('.'))}" if param is not None and param.help else ""
    return f"{name} needs a value{what}"


def _bad_value(error: Any, ctx: Any) -> str:
    param, annotations = error.param, pages.annotations_of(ctx.command) if ctx is not None else {}
    base, declared = pages.declared_type(param, annotations)
    option = param.param_type_name == "option"
    name = pages.name_of(param) if option else pages.spelled(param, annotations)
    given = _given(error)
    place = f"{name} {given}".rstrip()
    choices = [str(one) for one in vars(base)["_member_map_"].values()] if isinstance(base, EnumType) else []
    if choices:
        from fewshot_cli.registry import did_you_mean

        return f"{place}: give {o.one_of(choices)}{did_you_mean(given, choices)}"
    if base in (int, float):
        return f"{place}: give {_number(base, declared)}"
    message = error.message or error.format_message()
    if "is a file" in message:
        return f"{place}: is a file; give a folder"
    if "is a directory" in message:
        return f"{place}: is a folder; give a file"
    return f"{place}: {message.rstrip('.')}"


def _given(error: Any) -> str:
    """The value that was refused, as far as the error says it."""
    faults = getattr(error.__cause__, "errors", None)
    if faults is not None:
        return str(faults()[0].get("input", ""))
    found = _QUOTED.search(error.message or "")
    return next((group for group in found.groups() if group is not None), "") if found else ""


def _number(base: type, declared: Any) -> str:
    """What number an option takes, in words."""
    kind = "a whole number" if base is int else "a number"
    least, most = getattr(declared, "min", None), getattr(declared, "max", None)
    if most is not None and most >= 2**62:
        most = None
    if least is not None and most is not None:
        return f"{kind} from {least:g} to {most:g}"
    if least is not None:
        return f"{kind} of at least {least:g}"
    return kind if most is None else f"{kind} of at most {most:g}"


def _other(message: str, ctx: Any, command: str) -> str:
    if found := re.search(r"No such command '(.*?)'\.", message):
        return _unknown_verb(found[1], ctx, command)
    if found := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        extra = found[1].strip()
        return f"{_verb(command)} has no use for {extra}; write {pages.usage(ctx.command, ctx)}"
    if message.startswith("Missing command"):
        return f"{_verb(command)} needs a verb: {o.one_of(ctx.command.commands)}"
    return f"{_verb(command)}: {message}"


def _unknown_verb(name: str, ctx: Any, command: str) -> str:
    from fewshot_cli.registry import did_you_mean

    verbs = list(getattr(ctx.command, "commands", {}))
    if command == "fsl" and name in o.recipe_names(name):
        return f"{name} is a recipe; fsl eval {name} evaluates it"
    lacks = "there is no verb" if command == "fsl" else f"{_verb(command)} has no verb"
    return f"{lacks} {name}{did_you_mean(name, verbs)}; {command} --help shows all"
