"""YAML as data, strictly: plain mappings with a line for every key.

Numbers follow YAML 1.2, so that `1e-3` is the number it looks like and `no` is a word. Duplicate keys, anchors and
aliases, tags, and absurd sizes or depths are refused with `file:line: key: reason`.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from fewshot_cli.errors import RecipeError

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_BYTES, _MAX_DEPTH = 1 << 20, 20

Path_ = tuple[str | int, ...]


def load(path: Path) -> tuple[dict[str, Any], dict[Path_, int]]:
    """The mapping in a YAML file and the line of each key path. Raises `RecipeError`."""
    try:
        if path.is_dir():
            raise RecipeError(f"{path}: is a folder, not a recipe; name a .yaml file in it")
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{path}: is larger than 1 MiB, which no recipe is")
        text = path.read_text("utf-8")
    except UnicodeDecodeError as fault:
        raise RecipeError(f"{path}: is not UTF-8 text, so not a recipe") from fault
    except OSError as fault:
        raise RecipeError(
            f"{path}: cannot be read ({fault.strerror}); `fsl list recipes` shows those installed"
        ) from fault
    return loads(text, str(path))


def loads(text: str, where: str) -> tuple[dict[str, Any], dict[Path_, int]]:
    """Like `load`, from text; `where` names it in messages."""
    lines: dict[Path_, int] = {}
    node = _compose(text, where)
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{where}:1: a recipe is a mapping of keys to values; this is not one")
    return _build(node, (), where, lines), lines


def scalar(text: str) -> Any:
    """The value after `=` in `--set key=value`: any YAML flow value."""
    return _build(_compose(text, "--set"), (), "--set", {}) if text.strip() else None


def _compose(text: str, where: str) -> yaml.Node:
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise RecipeError(
                    f"{where}:{line}: anchors and aliases are not allowed in a recipe; write the value out"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise RecipeError(f"{where}:{line}: nested deeper than {_MAX_DEPTH} levels, which no recipe is")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        reason = getattr(fault, "problem", None) or "unreadable"
        raise RecipeError(f"{where}:{line}: not valid YAML ({reason})") from fault
    if node is None:
        raise RecipeError(f"{where}:1: the recipe is empty; `fsl recipe cat glyphs_5w1s` shows one")
    return node


def _build(node: yaml.Node, path: Path_, where: str, lines: dict[Path_, int]) -> Any:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.CollectionNode) and node.tag not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
        raise RecipeError(f"{where}:{line}: the tag {node.tag} is not allowed in a recipe")
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*path, i), where, lines) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{where}:{line}: a key must be a plain word")
            key = key_node.value
            if key in out:
                first = lines[(*path, key)]
                raise RecipeError(f"{where}:{line}: {key}: given twice (first on line {first}); keep one")
            lines[(*path, key)] = line
            out[key] = _build(value_node, (*path, key), where, lines)
        return out
    assert isinstance(node, yaml.ScalarNode)
    if node.tag not in (
        "tag:yaml.org,2002:str",
        "tag:yaml.org,2002:int",
        "tag:yaml.org,2002:float",
        "tag:yaml.org,2002:bool",
        "tag:yaml.org,2002:null",
        "tag:yaml.org,2002:timestamp",
        "tag:yaml.org,2002:merge",
        "tag:yaml.org,2002:value",
    ):
        raise RecipeError(f"{where}:{line}: the tag {node.tag} is not allowed in a recipe")
    return node.value if node.style else _plain(node.value)


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
