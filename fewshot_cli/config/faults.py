"""What is wrong with a value of a recipe, in our words."""

import json
from collections.abc import Mapping
from typing import Any

from fewshot_cli.registry import did_you_mean

_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "a word or text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "none_required": "left out",
}


def in_words(error: Mapping[str, Any]) -> str:
    """A fault that Pydantic found, as `must be at most 1000, not 1001`."""
    kind, ctx, value = error["type"], error.get("ctx", {}), error["input"]
    given = "" if isinstance(value, dict | list) else f", not {_written(value)}"
    if kind in _LIMITS:
        word, key = _LIMITS[kind]
        limit = f"{ctx[key]:g}" if isinstance(ctx[key], float) else ctx[key]
        return f"must be {word} {limit}{given}"
    if kind in ("literal_error", "enum"):
        known = ctx["expected"].replace(" or ", ", ").strip("'").split("', '")
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        return f"must be {ctx['expected']}{given}{hint}"
    if kind in ("too_long", "too_short"):
        word, count = ("most", ctx["max_length"]) if kind == "too_long" else ("least", ctx["min_length"])
        return f"must have at {word} {count} {'value' if count == 1 else 'values'}, not {ctx['actual_length']}"
    if kind == "string_too_short":
        return "must not be empty"
    if kind in ("value_error", "assertion_error"):
        return f"{ctx['error']}{given}"
    tails = ("", "_type", "_parsing", "_from_float", "_attributes_type")
    for begin, what in _KINDS.items():
        if kind in (f"{begin}{tail}" for tail in tails):
            return f"must be {what}{given}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}{given}"


def _written(value: Any) -> str:
    """A value as it is written in a recipe."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
