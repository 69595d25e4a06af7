"""The reference pages, made from the code when the site is built (a hook of MkDocs), so they cannot be out of date.

Verbs and their options come from the command line itself, keys of a recipe from its schema, parts from the registry.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NAMES = ("verbs", "recipe-keys", "recipes", "solvers", "backbones", "heads", "classifiers", "extractors", "datasets")
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_LARGEST = 2**63 - 1  # a bound that nobody reaches is not worth a column


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that lie in the folder."""
    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Every page's Markdown by its name."""
    from fewshot_cli import registry

    kinds = {kind: "\n".join(_parts(kind)) for kind in registry.KINDS}
    return {
        "verbs": "\n".join(_verbs()),
        "recipe-keys": "\n".join(_recipe_keys()),
        "recipes": "\n".join(_recipes()),
        **kinds,
    }


# Markdown


def plain(text: str) -> str:
    """Text as Markdown that shows exactly it, except that what stands in backticks is code."""
    pieces = re.split(r"(`[^`]*`)", text.replace("``", "`"))
    return "".join(p if p.startswith("`") else re.sub(r"[*_<>\[\]#&]", lambda m: f"&#{ord(m[0])};", p) for p in pieces)


def _cell(text: str) -> str:
    pieces = re.split(r"(`[^`]*`)", re.sub(r"\s+", " ", text).strip())  # the bars of code divide no cells
    return "".join(p if p.startswith("`") else p.replace("|", "&#124;") for p in pieces)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table without the columns that are empty in every row."""
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    lines = [[header[i] for i in kept], ["---"] * len(kept), *[[_cell(row[i]) for i in kept] for row in rows]]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _paragraphs(text: str) -> list[str]:
    return [line for part in text.split("\n\n") for line in (plain(part), "")]


# Verbs


def _verbs() -> Iterator[str]:
    import typer

    from fewshot_cli.cli.app import app

    group = typer.main.get_command(app)
    yield from ["# Verbs", "", *_paragraphs(inspect.cleandoc(group.help or "")), *_paragraphs(group.epilog or "")]
    yield from ["This page is made from the command line itself; `fsl VERB --help` prints the same.", ""]
    for words, command, context in _commands(group, group.make_context("fsl", [], resilient_parsing=True)):
        yield from [f"## {words}", "", *_paragraphs(inspect.cleandoc(command.help or ""))]
        params = sorted(command.params, key=lambda p: p.param_type_name != "argument")
        records = [record for p in params if (record := p.get_help_record(context)) is not None]
        arguments = [_spelled(p.get_help_record(context)[0]) for p in params if p.param_type_name == "argument"]
        yield from ["```text", " ".join([words, *arguments, "[OPTIONS]"]), "```", ""]
        yield from _table(["option", ""], [[f"`{_spelled(name)}`", plain(_bounded(said))] for name, said in records])


_TYPES = {"int": "N", "float": "X", "file": "FILE", "dir": "FOLDER", "path": "PATH", "str": "TEXT"}


def _spelled(name: str) -> str:
    """An option with what stands for its value, or an argument by its own name in capitals."""
    first, _, kind = name.partition(" <")
    if kind and not first.startswith("-"):
        return first.strip("[]{}.").upper() + "…" * ("..." in name)
    return re.sub(r"<(?:list\[)?([\w|.=]+)\]?( range)?>", lambda m: _TYPES.get(m[1], m[1]), name)


def _bounded(said: str) -> str:
    """What help says, with bounds, default and variable in words."""
    text, _, notes = said.partition("  [")
    notes = re.sub(r"([\d.]+)<=x<=([\d.]+)", r"\1 to \2", re.sub(r"x>=([\d.]+)", r"at least \1", notes))
    notes = re.sub(r"0<=x<=\d{18,}|0 to \d{18,}", "at least 0", notes).replace("env var: ", "or by ").rstrip("]")
    return f"{text.rstrip('.')} ({notes})." if notes else text


def _commands(group: Any, above: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each verb with the words that call it; in place of a group, its members."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        context = command.context_class(command, info_name=name, parent=above)
        if hasattr(command, "commands"):
            yield from _commands(command, context)
        else:
            yield context.command_path, command, context


# Recipes


def _recipe_keys() -> Iterator[str]:
    from fewshot_cli.config.schema import Recipe

    schema = Recipe.model_json_schema()
    del schema["properties"]["name"]  # its file names it
    yield from [
        "# Recipe keys",
        "",
        "Every key of a recipe with its type, bounds and default, made from the schema that checks recipes. A *part* "
        "is a name, or a mapping of `name` and its options; the pages that follow list them. `fsl show recipe NAME` "
        "prints a recipe with all of these filled in, and `--set key.path=value` changes one for a single run.",
        "",
        "## The recipe itself",
        "",
    ]
    yield from _section(schema, schema["$defs"], "", {})


def _section(node: dict[str, Any], defs: dict[str, Any], path: str, given: dict[str, Any]) -> Iterator[str]:
    """A table of a section's keys, then the sections below it; `given` are defaults that the section above sets."""
    rows, below = [], []
    for key, field in node["properties"].items():
        target, default = _target(field, defs), given.get(key, field.get("default"))
        if target is not None and "properties" in target and target["title"] != "PartSpec":
            below.append((f"{path}{key}", target, field, default))
            said = f"see [{path}{key}](#{_anchor(path + key)})"
            rows.append([f"`{key}`", _mapping(field), "", said])
        else:
            shown = "required" if key in node.get("required", []) else _value(default)
            rows.append([f"`{key}`", _type(field, defs), shown, plain(field.get("description", ""))])
    yield from _table(["key", "value", "default", ""], rows)
    for name, target, field, default in below:
        yield from [f"## {name}", "", *_paragraphs(target.get("description", ""))]
        if said := plain(field.get("description", "")):
            yield from [f"{said[0].upper()}{said[1:]}.", ""]
        inner = f"{name}.NAME." if _mapping(field).endswith("mappings") else f"{name}."
        yield from _section(target, defs, inner, default if isinstance(default, dict) else {})


def _anchor(path: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "", path.lower())


def _mapping(field: dict[str, Any]) -> str:
    if field.get("type") == "array":
        return "list of mappings"
    return "names with mappings" if any(_values(place) for place in field.get("anyOf", [])) else "mapping"


def _target(field: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any] | None:
    """The definition that a key's value, a list's items or a mapping's values refer to."""
    places = [field, field.get("items", {}), *field.get("anyOf", [])]
    places += [rule for p in field.get("anyOf", []) for v in _values(p) for rule in (v, *v.get("anyOf", []))]
    found = next((place["$ref"] for place in places if "$ref" in place), None)
    return defs[found.rpartition("/")[2]] if found else None


def _values(place: dict[str, Any]) -> list[dict[str, Any]]:
    """What the values of a mapping with free names must be."""
    patterns = place.get("patternProperties", {})
    return [v for v in [place.get("additionalProperties"), *patterns.values()] if isinstance(v, dict)]


def _type(field: dict[str, Any], defs: dict[str, Any]) -> str:
    """Its type or choices, with bounds."""
    if _target(field, defs) is not None:
        return "part"
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    return " or ".join(dict.fromkeys(_one(kind) for kind in kinds))


def _one(kind: dict[str, Any]) -> str:
    if choices := kind.get("enum"):
        return ", ".join(f"`{choice}`" for choice in choices)
    if "const" in kind:
        return f"`{kind['const']}`"
    bounds = [
        f"{sign}\u00a0{_number(kind[word])}" for word, sign in _BOUNDS.items() if word in kind and kind[word] < _LARGEST
    ]
    name = {"integer": "whole number", "boolean": "true, false", "string": "text", "object": "mapping"}
    if kind.get("type") == "array":
        items = kind.get("prefixItems") or [kind.get("items", {})]
        length = f"{len(items)} × " if "prefixItems" in kind else "list of "
        return length + " or ".join(dict.fromkeys(_one(item) for item in items))
    step = [f"a multiple of {kind['multipleOf']}"] if "multipleOf" in kind else []
    return " ".join([name.get(kind.get("type", ""), kind.get("type", "any")), ", ".join(bounds + step)]).strip()


def _number(value: float) -> str:
    return f"{value:,}" if value >= 1e5 else f"{value:g}"


def _value(default: Any) -> str:
    """A default as a recipe writes it; none at all for what is left empty."""
    if default is None or default in ("", [], {}):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, dict):
        return f"`{default['name']}`"
    if isinstance(default, list):
        return f"`[{', '.join(f'{x:.4g}' if isinstance(x, float) else str(x) for x in default)}]`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _recipes() -> Iterator[str]:
    from fewshot_cli.config.load import installed_recipes, load_recipe

    rows = []
    for name in installed_recipes():
        r = load_recipe(name)
        classes = r.eval.protocol == "classification"
        task = "classification" if classes else f"{r.episode.way}-way {r.episode.shot}-shot"
        expected = f"{r.expect[0].accuracy:g} ± {r.expect[0].tolerance:g}" if r.expect else ""
        classifier = r.pretrain.classifier.name
        rows.append(
            [f"`{name}`", r.dataset.name, r.backbone.name, classifier if classes else r.head.name, task, expected]
        )
    yield from [
        "# Installed recipes",
        "",
        "`fsl recipe cat NAME` prints one, `fsl recipe cp NAME mine.yaml` copies it to be changed. The last column is "
        "what `fsl eval --recipe NAME --check` expects, in per cent, with its tolerance.",
        "",
        *_table(["recipe", "dataset", "backbone", "head or classifier", "task", "expected"], rows),
    ]


# Parts

_INTRODUCTIONS = {
    "solvers": "`--solver NAME` chooses one, `--set solver.KEY=VALUE` its options.",
    "heads": "`--set head=NAME` chooses one, `--set head.KEY=VALUE` its options.",
    "backbones": "`--set backbone=NAME` chooses one, `--set backbone.KEY=VALUE` its options.",
    "classifiers": "`--set pretrain.classifier=NAME` chooses what pre-training puts on the backbone, `--set "
    "pretrain.classifier.KEY=VALUE` its options.",
    "extractors": "`--set extractor=NAME` chooses which local features a head compares, `--set extractor.KEY=VALUE` "
    "its options.",
    "datasets": "`fsl prepare NAME` makes a store of one.",
}


def _parts(kind: str) -> Iterator[str]:
    from fewshot_cli import registry

    yield from [f"# {kind.capitalize()}", "", _INTRODUCTIONS[kind], ""]
    yield from [f"This page is made from the code; `fsl show {kind[:-1]} NAME` prints the same.", ""]
    for name, entry in registry.entries(kind).items():
        if not entry.built_in:
            continue
        cls = entry.load()
        yield from [f"## {name}", "", *_paragraphs(inspect.getdoc(cls) or ""), *_facts(kind, cls)]
        schema = cls.Options.model_json_schema()
        rows = [
            [
                f"`{key}`",
                _type(field, schema.get("$defs", {})),
                _value(field.get("default")),
                plain(field.get("description", "")),
            ]
            for key, field in schema.get("properties", {}).items()
        ]
        yield from _table(["option", "value", "default", ""], rows) if rows else ["No options.", ""]


def _facts(kind: str, cls: Any) -> list[str]:
    if kind == "solvers":
        growth, _ = cls.complexity
        known = f" Time of an n×n problem in the literature: {plain(growth)}." if growth else ""
        kind_of = "Exact" if cls.exact else "Approximate"
        return [f"{kind_of}; on {' and '.join(cls.devices)}; gradient: {cls.gradient}.{known}", ""]
    if kind == "datasets":
        terms = plain(cls.licence) if cls.licence else "see the terms of the dataset itself"
        return [f"`--from`: {plain(cls.source)}", "", f"Licence: {terms}", ""]
    return []
