"""The keys of a schema, read from its source: shell completion must not wait for the modules of parts, which import
PyTorch.

What is read are classes of annotated fields as recipes and parts have them; what cannot be read has no keys here.
"""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import cast

from fewshot_cli import registry


@dataclass(frozen=True)
class Key:
    """One key: the values that it may have where these are an enumeration, the keys inside it, and whether it holds a
    part, by `default` of this name.
    """

    choices: tuple[str, ...] = ()
    inside: Mapping[str, "Key"] = field(default_factory=dict)
    part: bool = False
    default: str | None = None


Keys = Mapping[str, Key]


def recipe_keys() -> Keys:
    """The keys of a recipe."""
    return _fields(*_class("fewshot_cli.config.schema", "Recipe"))


def option_keys(kind: str, name: str) -> Keys:
    """The keys of the options of a part; none for a part that is not registered or cannot be read."""
    entry = registry.entries(kind).get(name)
    module, _, cls = entry.point.value.partition(":") if entry else ("", "", "")
    try:
        return _options(*_class(module, cls)) if entry else {}
    except (LookupError, OSError, SyntaxError, ValueError):
        return {}


@cache
def _tree(module: str) -> dict[str, ast.AST]:
    """Everything that a module names at its top: classes, values of assignments, and imports. Raises `OSError` where
    its source cannot be found.
    """
    names: dict[str, ast.AST] = {}
    for node in ast.parse(_source(module)).body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            names[node.target.id] = node.value
    return names


def _source(module: str) -> str:
    """The source of a module, without importing the packages that it lies in, but this one."""
    import fewshot_cli

    first, *rest = module.split(".")
    if first == fewshot_cli.__name__:
        spec, path = None, list(fewshot_cli.__path__)
    else:
        spec = importlib.util.find_spec(first)
        path = list(spec.submodule_search_locations or []) if spec else []
    for depth in range(len(rest)):
        spec = PathFinder.find_spec(".".join([first, *rest[: depth + 1]]), path)
        path = list(spec.submodule_search_locations or []) if spec else []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise OSError(f"no source of {module}")
    return Path(spec.origin).read_text("utf-8")


def _class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """A class by name with the module that it is written in. Raises `LookupError` where there is none."""
    where, node = _named(module, name)
    if not isinstance(node, ast.ClassDef):
        raise LookupError(f"{module}: {name} is no class")
    return where, node


def _named(module: str, name: str) -> tuple[str, ast.AST]:
    """What a name means in a module, through imports from other modules. Raises `LookupError`."""
    node = _tree(module)[name]
    if not isinstance(node, ast.ImportFrom):
        return module, node
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
    parent = module.split(".")[: -node.level] if node.level else []
    return _named(".".join([*parent, *([node.module] if node.module else [])]), original)


def _options(module: str, cls: ast.ClassDef) -> Keys:
    """The options of a part's class: the class that it names `Options`, or in the brackets of a base, else a base's."""
    for node in (node for node in cls.body if isinstance(node, ast.Assign)):
        named = any(isinstance(target, ast.Name) and target.id == "Options" for target in node.targets)
        if named and isinstance(node.value, ast.Name):
            return _fields(*_class(module, node.value.id))
    for base in cls.bases:
        if isinstance(base, ast.Subscript) and isinstance(base.slice, ast.Name):
            return _fields(*_class(module, base.slice.id))
    for base in cls.bases:
        if isinstance(base, ast.Name) and (keys := _options(*_class(module, base.id))):
            return keys
    return {}


def _fields(module: str, cls: ast.ClassDef) -> Keys:
    """The keys of a class's annotated fields, those of its bases first."""
    keys: dict[str, Key] = {}
    for base in cls.bases:
        if isinstance(base, ast.Name) and base.id != "BaseModel":
            keys |= _fields(*_class(module, base.id))
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            keys[node.target.id] = _key(module, node.annotation, node.value)
    return keys


def _key(module: str, annotation: ast.AST, value: ast.AST | None) -> Key:
    choices: list[str] = []
    inside: dict[str, Key] = {}
    part = False
    for where, node in _types(module, annotation):
        if isinstance(node, ast.Subscript):  # Literal
            choices += [str(ast.literal_eval(item)) for item in _items(node)]
        elif isinstance(node, ast.ClassDef) and node.name == "PartSpec":
            part = True
        elif isinstance(node, ast.ClassDef):
            inside |= _fields(where, node)
        elif isinstance(node, ast.Name) and node.id == "bool":
            choices += ["true", "false"]
    return Key(tuple(choices), inside, part, _default_part(value) if part else None)


def _types(module: str, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The types that an annotation is made of and that matter here: classes, `Literal[…]` and `bool`."""
    if isinstance(node, ast.BinOp):
        yield from _types(module, node.left)
        yield from _types(module, node.right)
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        if node.value.id == "Annotated":
            yield from _types(module, _items(node)[0])
        elif node.value.id == "Literal":
            yield module, node
    elif isinstance(node, ast.Name) and node.id == "bool":
        yield module, node
    elif isinstance(node, ast.Name) and node.id in _tree(module):
        where, meant = _named(module, node.id)
        if isinstance(meant, ast.ClassDef):
            yield where, meant
        else:
            yield from _types(where, meant)


def _items(node: ast.Subscript) -> list[ast.expr]:
    return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]


def _default_part(value: ast.AST | None) -> str | None:
    """The name in `PartSpec(name="…")`, wherever it stands in a field's value."""
    for node in ast.walk(value) if value is not None else []:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "PartSpec":
            return next(
                (
                    cast(str, w.value.value)
                    for w in node.keywords
                    if w.arg == "name" and isinstance(w.value, ast.Constant)
                ),
                None,
            )
    return None
