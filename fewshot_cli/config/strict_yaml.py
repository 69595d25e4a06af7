"""YAML as data, strictly: plain mappings with a line for every key.

Numbers follow YAML 1.2, so that `1e-3` is the number it looks like and `no` is a word. Duplicate keys, anchors and
aliases, tags, and absurd sizes or depths are refused with `file:line: key: reason`.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fewshot_cli.errors import RecipeError
from fewshot_cli.runtime.files import regular

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_BYTES, _MAX_DEPTH = 1 << 20, 20
_QUICK_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of libyaml, ten times as quick

_COLLECTION_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("seq", "map")}
_SCALAR_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")
}

Path_ = tuple[str | int, ...]
Place = Callable[[int], str]  # a line's name in messages


def load(path: Path) -> tuple[dict[str, Any], dict[Path_, int]]:
    """The mapping in a YAML file and the line of each key path. Raises `RecipeError`."""
    try:
        if path.is_dir():
            raise RecipeError(f"{path}: is a folder, not a recipe; name a .yaml file in it")
        if regular(path).stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{path}: is larger than 1 MiB, which no recipe is")
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text, so not a recipe") from error
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror}); `fsl list recipes` shows those installed"
        ) from error
    return loads(text, str(path))


def loads(text: str, where: str) -> tuple[dict[str, Any], dict[Path_, int]]:
    """Like `load`, from text; `where` names it in messages."""

    def place(line: int) -> str:
        return f"{where}:{line}"

    lines: dict[Path_, int] = {}
    node = _compose(text, place)
    if node is None:
        raise RecipeError(f"{place(1)}: the recipe is empty; `fsl recipe cat glyphs_5w1s` shows one")
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{place(1)}: a recipe is a mapping of keys to values; this is not one")
    return _build(node, (), place, lines), lines


def scalar(text: str, where: str) -> Any:
    """A single value, any YAML flow value, as plain data; `where` names it in messages. Raises `RecipeError`."""

    def place(line: int) -> str:
        return where

    node = _compose(text, place)
    return None if node is None else _build(node, (), place, {})


def _compose(text: str, place: Place) -> yaml.Node | None:
    """The document's node, or None when there is nothing but comments."""
    try:
        try:
            return _composed(text, place, _QUICK_LOADER)
        except yaml.YAMLError:  # the loader in Python says better what is wrong
            return _composed(text, place, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or "unreadable"
        raise RecipeError(f"{place(mark.line + 1 if mark else 1)}: not valid YAML ({reason})") from error


def _composed(text: str, place: Place, loader: type) -> yaml.Node | None:
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        here = place(event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise RecipeError(f"{here}: anchors and aliases are not allowed in a recipe; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise RecipeError(f"{here}: nested deeper than {_MAX_DEPTH} levels, which no recipe is")
    return yaml.compose(text, Loader=loader)


def _build(node: yaml.Node, path: Path_, place: Place, lines: dict[Path_, int]) -> Any:
    here = place(node.start_mark.line + 1)
    if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTION_TAGS:
        raise RecipeError(f"{here}: the tag {node.tag} is not allowed in a recipe")
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*path, i), place, lines) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, place, lines)
    assert isinstance(node, yaml.ScalarNode)
    if node.tag not in _SCALAR_TAGS:
        raise RecipeError(f"{here}: the tag {node.tag} is not allowed in a recipe")
    return node.value if node.style else _plain(node.value)


def _mapping(node: yaml.MappingNode, path: Path_, place: Place, lines: dict[Path_, int]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{place(line)}: a key must be a plain word")
        key = key_node.value
        if key in out:
            raise RecipeError(f"{place(line)}: {key}: given twice (first on line {lines[(*path, key)]}); keep one")
        lines[(*path, key)] = line
        out[key] = _build(value_node, (*path, key), place, lines)
    return out


def _plain(text: str) -> Any:
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text) if len(text) < 20 else float(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
