"""A recipe file with some of its keys changed: comments, order and formatting stay."""

import io
from contextlib import suppress
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from fewshot_cli.config import overrides, strict_yaml
from fewshot_cli.config.load import OF_WEIGHTS, brings_weights, find_recipe, load_recipe, parse_recipe
from fewshot_cli.config.places import PARTS, installed_recipes, part_name
from fewshot_cli.config.schema import Recipe
from fewshot_cli.errors import RecipeError
from fewshot_cli.runtime.files import guarded, write_text

_FOLLOWING = ("weights", *(f"image.{key}" for key in OF_WEIGHTS))  # what another backbone may change


class Change(NamedTuple):
    """A key of a recipe file that got another value; `old` is what it was with every default, None for nothing."""

    key: str
    old: Any
    new: Any


def own_file(name_or_path: str) -> Path:
    """The file of a user's own recipe. Raises `RecipeError` for an installed one, which an update would replace."""
    path = find_recipe(name_or_path)
    if path.resolve() in {file.resolve() for file in installed_recipes().values()}:
        raise RecipeError(
            f"{path.stem}: is an installed recipe, which an update replaces; copy it first "
            f"(fsl recipe cp {path.stem} mine.yaml) and change the copy"
        )
    return path


def change(path: Path, texts: list[str]) -> tuple[list[Change], Recipe]:
    """Set `key.path=value` in a recipe file, and return what that changed, and the recipe. The file is replaced once
    the new one has been checked, else it stays as it is.

    A part gets a new name without the options of the old one, and a backbone that brings weights comes without those
    of another. Raises `RecipeError` for what would be no recipe.
    """
    asked = list(map(overrides.parse, texts))
    before: dict[str, Any] = {}
    with suppress(RecipeError):  # a change may be what makes it a recipe
        before = load_recipe(str(path)).resolved()
    with guarded(path):
        text = path.read_bytes().decode("utf-8")
    editor = _Editor(text, str(path))
    for key, value in asked:
        editor.set(tuple(key.split(".")), value)
    new = editor.text()
    try:
        recipe = parse_recipe(new, path)
    except RecipeError as error:
        raise RecipeError(f"{error} (with {', '.join(texts)}; the file is as it was)") from error
    write_text(path.resolve(), new)
    after = recipe.resolved()
    changes = [Change(key, _at(before, key), _at(after, key)) for key in dict.fromkeys([*dict(asked), *_FOLLOWING])]
    return [one for one in changes if one.key in dict(asked) or one.old != one.new], recipe


def _at(data: Any, key: str) -> Any:
    """The value at a key with dots in a resolved recipe, where options stand in a mapping of their own."""
    for word in key.split("."):
        if isinstance(data, dict) and word not in data and "options" in data:
            data = data["options"]
        data = data.get(word) if isinstance(data, dict) else None
    return part_name(data) if isinstance(data, dict) and "options" in data else data


class _Editor:
    """A YAML document that is changed in place. Raises `RecipeError` for a key inside what has no keys."""

    def __init__(self, text: str, name: str) -> None:
        from ruamel.yaml import YAML
        from ruamel.yaml.util import load_yaml_guess_indent

        strict_yaml.loads(text, name)  # nothing in it that ruamel would read in another way
        _, indent, offset = load_yaml_guess_indent(text)
        self._yaml = YAML()
        self._yaml.preserve_quotes = True
        self._yaml.width = 1 << 20  # break no line
        self._yaml.indent(mapping=2 if not indent or offset else indent, sequence=indent or 4, offset=offset or 0)
        self._yaml.representer.add_representer(
            type(None), lambda own, _: own.represent_scalar("tag:yaml.org,2002:null", "null")
        )
        self._line_end = "\r\n" if "\r\n" in text else "\n"
        self._original = text.replace("\r\n", "\n")
        self._data = self._yaml.load(self._original)
        self._unchanged = self._dumped()
        self._set: set[tuple[str, ...]] = set()

    def text(self) -> str:
        """The document. Lines that did not change are as they were, where ruamel would write other blanks."""
        new, old, original = (t.splitlines(keepends=True) for t in (self._dumped(), self._unchanged, self._original))
        merged = "".join(new)
        if len(old) == len(original):
            pieces = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
            kept = [original[a:b] if tag == "equal" else new[c:d] for tag, a, b, c, d in pieces]
            candidate = "".join(line for lines in kept for line in lines)
            with suppress(RecipeError):
                if strict_yaml.loads(candidate, "")[0] == strict_yaml.loads(merged, "")[0]:
                    merged = candidate
        return merged.replace("\n", self._line_end)

    def _dumped(self) -> str:
        out = io.StringIO()
        self._yaml.dump(self._data, out)
        return out.getvalue()

    def set(self, path: tuple[str, ...], value: Any) -> None:
        """Give a key a value; mappings on the way to it are made where they are missing."""
        self._set.add(path)
        if path in (("backbone",), ("backbone", "name")):
            self._change_backbone(part_name(value))
        if path in PARTS and isinstance(value, str) and isinstance(self._get(path), dict):
            value = {"name": value}
        elif path[:-1] in PARTS and path[-1] == "name" and part_name(self._get(path[:-1])) != value:
            path, value = path[:-1], {"name": value}
        spot = self._data
        for depth, word in enumerate(path[:-1], 1):
            inner = spot.get(word)
            if isinstance(inner, str) and path[:depth] in PARTS:
                spot[word] = _flow({"name": inner})
            elif inner is None:
                _put(spot, word, _flow({}))
            elif not isinstance(inner, dict):
                raise RecipeError(f"{'.'.join(path)}: {'.'.join(path[:depth])} has no keys inside")
            spot = spot[word]
        _put(spot, path[-1], _flow(value))

    def _get(self, path: tuple[str, ...]) -> Any:
        spot = self._data
        for word in path:
            spot = spot.get(word) if isinstance(spot, dict) else None
        return spot

    def _change_backbone(self, name: str | None) -> None:
        """As `--set` does: forget weights, and what they want of images, where the new backbone brings its own."""
        if name in (None, part_name(self._data.get("backbone"))) or not brings_weights(name):
            return
        for path in (("weights",), *(("image", key) for key in OF_WEIGHTS)):
            owner = self._get(path[:-1])
            if path not in self._set and isinstance(owner, dict):
                owner.pop(path[-1], None)


def _flow(value: Any) -> Any:
    """A mapping or a list that is written on one line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    made: Any
    if isinstance(value, dict):
        made = CommentedMap({key: _flow(inner) for key, inner in value.items()})
    elif isinstance(value, list):
        made = CommentedSeq(map(_flow, value))
    else:
        return value
    made.fa.set_flow_style()
    return made


def _put(spot: Any, key: str, value: Any) -> None:
    """Set a key of a mapping; a new one stands before the comment lines that follow the mapping's last key."""
    is_new, comments = key not in spot, _comments_after(spot) if key not in spot else None
    spot[key] = value
    if is_new and comments is not None:
        kept, _, rest = comments.value.partition("\n")
        comments.value = f"{kept}\n"
        if rest.strip():
            from ruamel.yaml.tokens import CommentToken

            spot.ca.items[key] = [None, None, CommentToken(f"\n{rest}", comments.start_mark, None), None]


def _comments_after(spot: Any) -> Any:
    """The token of the comments after a mapping's last key, or the last key inside its value; None without any."""
    if not spot or spot.fa.flow_style():
        return None
    last = next(reversed(spot))
    if isinstance(inner := spot[last], dict) and (found := _comments_after(inner)) is not None:
        return found
    return (spot.ca.items.get(last) or [None, None, None])[2]
