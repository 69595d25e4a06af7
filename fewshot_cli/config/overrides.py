"""`--set KEY=VALUE`: the one place that reads and writes overrides."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from fewshot_cli.config import strict_yaml
from fewshot_cli.errors import RecipeError


class Override(NamedTuple):
    """One option of the command line: the key as it was written, dots included, and the value as plain data."""

    key: str
    value: Any


def parse(text: str) -> Override:
    """What `--set text` says; the value is any YAML flow value. Raises `RecipeError` when it is not KEY=VALUE."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"--set {text}: write it as key=value, with a value in YAML such as 5, true or [1, 2]")
    return Override(key, strict_yaml.scalar(value, f"--set {key}"))


def options(texts: Iterable[str] | None) -> dict[str, Any]:
    """The options of one part from its `--set` texts; the last value of a key wins. Raises as `parse`."""
    return dict(map(parse, texts or ()))


def written(key: str, value: Any) -> str:
    """The text that `parse` reads back as this key and value."""
    return f"{key}={json.dumps(value)}"
