"""A recipe: YAML and `--set` → one frozen, typed value; every fault is `file:line: key: reason`."""

import json
import os
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from fewshot_cli import registry
from fewshot_cli.config import overrides, strict_yaml
from fewshot_cli.config.faults import in_words
from fewshot_cli.config.places import PARTS, installed_recipes, part_name
from fewshot_cli.config.schema import OWN, PartSpec, Recipe, Section
from fewshot_cli.errors import RecipeError

SectionT = TypeVar("SectionT", bound=Section)

_OF_ITSELF = ("expect", "description")
OF_WEIGHTS = ("size", "resize", "mean", "std", "interpolation")  # keys of `image` that weights decide


class Source:
    """Raw data of a recipe or another file with the place of each key, for messages."""

    def __init__(self, where: str, data: dict[str, Any], lines: dict[tuple, int]) -> None:
        self.data = data
        self.places = {path: f"{where}:{line}" for path, line in lines.items()}
        self.where = where

    def error(self, path: tuple, reason: str) -> RecipeError:
        """The error `file:line: key: reason`, with the line of the key or of its nearest parent."""
        given = next((p for p in self.places if p[: len(path)] == path and self.places[p].startswith("--set ")), None)
        if given and path not in self.places:  # a key inside this one was given by --set
            return _placed(self.places[given], path, reason)
        path = self._as_written(path)
        for cut in range(len(path), 0, -1):
            if path[:cut] in self.places:
                return _placed(self.places[path[:cut]], path, reason)
        return _placed(self.where, path, reason)

    def _as_written(self, path: tuple) -> tuple:
        """The path without the number of a list's only entry, where that was written as a mapping."""
        for at, key in enumerate(path):
            inside = (p for p in self.places if len(p) > at and p[:at] == path[:at])
            if isinstance(key, int) and any(isinstance(p[at], str) for p in inside):
                return path[:at] + path[at + 1 :]
        return path

    def over(self, base: "Source") -> "Source":
        """This source merged over its base: mappings merge, a part with another name replaces the base's.

        What a recipe says about itself (`expect`, `description`) is not inherited, nor by another backbone that brings
        weights what belongs to the base's.
        """
        kept = {k: v for k, v in base.data.items() if k not in _OF_ITSELF}
        below = Source(base.where, kept, {})
        below.places = {path: place for path, place in base.places.items() if path[0] not in _OF_ITSELF}
        below.change_backbone(part_name(self.data.get("backbone")))
        out = Source(self.where, _merge(below.data, self.data), {})
        out.places = below.places | self.places
        return out

    def change_backbone(self, name: str | None) -> None:
        """Forget the weights and what they want of images, but what `--set` says, where another backbone takes the
        place that brings weights of its own.
        """
        if name in (None, part_name(self.data.get("backbone"))) or not brings_weights(name):
            return
        gone: list[tuple] = [("weights",), *(("image", key) for key in OF_WEIGHTS)]
        gone = [path for path in gone if not self.places.get(path, "").startswith("--set ")]
        self.data = {k: v for k, v in self.data.items() if (k,) not in gone}
        if isinstance(image := self.data.get("image"), dict):
            self.data["image"] = {k: v for k, v in image.items() if ("image", k) not in gone}
        self.places = {path: place for path, place in self.places.items() if path not in gone}


def _placed(place: str, path: tuple, reason: str) -> RecipeError:
    """The error `place: key: reason`, without the key where the place ends with it."""
    key = ".".join(map(str, path))
    return RecipeError(f"{place}: {reason}" if place == f"--set {key}" else f"{place}: {key}: {reason}")


def brings_weights(backbone: str | None) -> bool:
    """Whether a backbone of this name brings weights of its own; one that cannot be had is told where it is built."""
    try:
        return backbone in registry.entries("backbones") and registry.backbone(str(backbone)).pretrained
    except RecipeError:
        return False


def _merge(base: Any, top: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    if "name" in top and "name" in base and top["name"] != base["name"]:
        return top
    return {**base, **{k: _merge(base.get(k), v) for k, v in top.items()}}


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe: a path, or a bare name among the installed ones. Raises `RecipeError`."""
    path = Path(os.path.expanduser(name_or_path))
    known = installed_recipes()
    try:
        if path.exists():
            return path
    except OSError as cause:
        raise RecipeError(f"{name_or_path[:80]}: no such recipe ({cause.strerror})") from cause
    if path.name == name_or_path and path.name.removesuffix(".yaml") in known:
        return known[path.name.removesuffix(".yaml")]
    hint = registry.of_another_kind(name_or_path) or registry.did_you_mean(path.name.removesuffix(".yaml"), known)
    raise RecipeError(f"{name_or_path}: no such recipe{hint}; `fsl list recipes` shows those installed")


def _read(path: Path, seen: tuple[Path, ...] = (), text: str | None = None) -> Source:
    """The raw data of a recipe file, or of what is to become its `text`, over that of its bases."""
    loaded = strict_yaml.load(path) if text is None else strict_yaml.loads(text, str(path))
    source = Source(str(path), *loaded)
    base = source.data.pop("base", None)
    if base is None:
        return source
    if not isinstance(base, str):
        raise source.error(("base",), "must be the name or path of a recipe")
    beside = path.parent / f"{base.removesuffix('.yaml')}.yaml"
    parent = beside if beside.exists() else find_recipe(base)
    if parent.resolve() in (*seen, path.resolve()):
        raise source.error(("base",), f"{base} leads back to this recipe")
    return source.over(_read(parent, (*seen, path.resolve())))


def load_recipe(
    name_or_path: str, sets: list[str] | None = None, solver: str | None = None, seed: int | None = None
) -> Recipe:
    """Read, override and validate a recipe. `sets` are `key.path=value` strings. Raises `RecipeError`."""
    path = find_recipe(name_or_path)
    return _finished(_read(path), path, as_sets(sets, solver, seed))


def parse_recipe(text: str, path: Path) -> Recipe:
    """The recipe that a file would be with this text. Raises as `load_recipe`."""
    return _finished(_read(path, text=text), path, [])


def _finished(source: Source, path: Path, sets: list[str]) -> Recipe:
    """The recipe of raw data with its name and these overrides."""
    if "name" in source.data:
        raise source.error(("name",), "unknown key; a recipe is named by its file")
    source.data["name"] = path.stem
    for text in sets:
        _override(source, text)
    return validate(source)


def as_sets(sets: list[str] | None, solver: str | None, seed: int | None) -> list[str]:
    """All overrides of a command as `key.path=value` strings, those of other options first."""
    own = {"solver": solver, "seed": seed}
    return [*(overrides.written(key, value) for key, value in own.items() if value is not None), *(sets or [])]


def overridden(sets: list[str]) -> dict[str, Any]:
    """What `key.path=value` strings say, as the data of a recipe. Raises `RecipeError`."""
    source = Source("--set", {}, {})
    for text in sets:
        _override(source, text)
    return source.data


def _override(source: Source, text: str) -> None:
    key, value = overrides.parse(text)
    path = tuple(key.split("."))
    if path in (("backbone",), ("backbone", "name")):
        source.change_backbone(part_name(value))
    if path == ("name",):
        raise RecipeError(f"--set {text}: a recipe is named by its file; copy it with `fsl recipe cp` to rename it")
    spot = source.data
    for i, word in enumerate(path[:-1]):
        inner = spot.get(word)
        if isinstance(inner, str) and path[: i + 1] in PARTS:
            inner = {"name": inner}
        elif inner is not None and not isinstance(inner, dict):
            raise RecipeError(f"--set {text}: {'.'.join(path[: i + 1])} has no keys inside")
        spot[word] = dict(inner or {})
        spot = spot[word]
    spot[path[-1]] = value
    for old in [p for p in source.places if p[: len(path)] == path]:
        del source.places[old]
    source.places[path] = f"--set {key}"


def validate(source: Source) -> Recipe:
    """Check raw data against the schema and every part's options. Raises `RecipeError` for the first fault."""
    data = json.loads(json.dumps(source.data))
    parts: dict[tuple, PartSpec] = {}
    for path, kind in PARTS.items():
        spot = data
        for word in path[:-1]:
            spot = spot.get(word) if isinstance(spot, dict) else None
        if isinstance(spot, dict) and spot.get(path[-1]) is not None:
            parts[path] = _part(source, kind, path, spot[path[-1]])
            spot[path[-1]] = {"name": parts[path].name}
    _as_own_weights_want(data, parts.get(("backbone",)))
    recipe = validate_options(Recipe, data, source)
    try:
        registry.dataset(recipe.dataset.name)
    except RecipeError as cause:
        raise source.error(("dataset", "name"), str(cause)) from cause
    whole = _with_parts(recipe, parts)
    for name, phase in whole.phases.items():
        head_in(whole, phase.options, source, ("metatrain", "phases", name, "options"))
    return whole


def _as_own_weights_want(data: dict[str, Any], backbone: PartSpec | None) -> None:
    """Where a backbone brings weights, take them, and images as they want them, unless the recipe says otherwise."""
    image = data.get("image", {})
    if backbone is None or not isinstance(image, dict):
        return
    cls = registry.backbone(backbone.name)
    wanted = cls.preprocessing(backbone.options)
    if cls.brings_weights(backbone.options) and data.get("weights") is None:
        data["weights"] = OWN
    if "size" in image:  # a centre crop is a share of another size
        wanted = {key: value for key, value in wanted.items() if key != "resize"}
    data["image"] = {**json.loads(json.dumps(wanted)), **image}


def head_in(recipe: Recipe, options: dict[str, Any], source: Source | str = "recipe", path: tuple = ()) -> PartSpec:
    """The recipe's head with some other options. Raises `RecipeError` for one that it does not have."""
    both = {**json.loads(recipe.head.options.model_dump_json()), **options}
    cls = registry.head(recipe.head.name)
    return PartSpec(name=recipe.head.name, options=validate_options(cls.Options, both, source, path))


def _part(source: Source, kind: str, path: tuple, raw: Any) -> PartSpec:
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise source.error(path, f"must be a name, or a mapping with a name and options, of a {kind[:-1]}")
    try:
        cls = registry.part(kind, raw["name"])
    except RecipeError as cause:
        raise source.error(path, str(cause)) from cause
    options = validate_options(cls.Options, {k: v for k, v in raw.items() if k != "name"}, source, path)
    return PartSpec(name=raw["name"], options=options)


def _with_parts(recipe: Recipe, parts: dict[tuple, PartSpec]) -> Recipe:
    """Put validated parts in place; parts nobody named get their default options."""

    def place(section: SectionT, path: tuple) -> SectionT:
        update: dict[str, Any] = {}
        for key in type(section).model_fields:
            value, here = getattr(section, key), (*path, key)
            if here in PARTS and value is not None:
                update[key] = parts.get(here) or default_part(PARTS[here], value.name)
            elif isinstance(value, Section):
                update[key] = place(value, here)
        return section.model_copy(update=update)

    return place(recipe, ())


def default_part(kind: str, name: str, **options: Any) -> PartSpec:
    """A part by name with the given options, others at their defaults."""
    return PartSpec(name=name, options=registry.part(kind, name).Options(**options))


def validate_options(model: type[BaseModel], data: dict[str, Any], source: Source | str, path: tuple = ()) -> Any:
    """Validate plain data strictly against a model; the first fault as a `RecipeError` with its place."""
    if isinstance(source, str):
        source = Source(source, data, {})
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as cause:
        # a key that is missing comes last: often another one is a misspelling of it
        error = min(cause.errors(include_url=False), key=lambda e: e["type"] == "missing")
        keys, owner = _located(model, error["loc"])
        where, kind = (*path, *keys), error["type"]
        if kind == "extra_forbidden":
            names = [k for k in owner.model_fields if k != "name" or owner is not Recipe] if owner else []
            hint = registry.did_you_mean(str(keys[-1]), names)
            raise source.error(where, f"unknown key{hint}; known here: {', '.join(names) or 'none'}") from cause
        if kind == "missing" and isinstance(keys[-1], int):  # of a list of fixed length
            raise source.error(where[:-1], f"must have more than {keys[-1]} values") from cause
        if kind == "missing":
            raise source.error(where, "is missing; it has no default") from cause
        if kind.startswith("union_tag"):  # a model chosen by one of its keys
            key, known = (error["ctx"].get(k, "").strip("'") for k in ("discriminator", "expected_tags"))
            if kind == "union_tag_not_found":
                raise source.error((*where, key), "is missing; it has no default") from cause
            hint = registry.did_you_mean(error["ctx"]["tag"], known.split("', '"))
            reason = f"must be one of '{known}', not {error['ctx']['tag']!r}{hint}"
            raise source.error((*where, key), reason) from cause
        raise source.error(where, in_words(error)) from cause


def _located(model: type[BaseModel], loc: tuple[str | int, ...]) -> tuple[list[str | int], type[BaseModel] | None]:
    """The keys of a fault's place, without what Pydantic adds for members of unions, and the model of the last key.

    The model is None where the last key lies in none.
    """
    keys: list[str | int] = []
    here: Any = model
    owner = None
    for word in loc:
        if tagged := _tagged(here):
            here = tagged[str(word)]
            continue
        here = get_args(here)[0] if get_origin(here) in (Annotated, Union, UnionType) else here
        owner = here if isinstance(here, type) and issubclass(here, BaseModel) else None
        if owner is not None:
            field = owner.model_fields.get(str(word))
            here = field.annotation if field else None
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        elif isinstance(word, int):
            here = next(iter(get_args(here)), None)
        else:  # a member of a union of plain types
            continue
        keys.append(word)
    return keys, owner


def _tagged(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models of a union that one key tells apart, by the value of that key; empty for anything else."""
    if get_origin(annotation) is not Annotated:
        return {}
    union, *notes = get_args(annotation)
    key = next((note.discriminator for note in notes if isinstance(note, FieldInfo)), None)
    members = get_args(union) if key else ()
    return {tag: member for member in members for tag in get_args(member.model_fields[key].annotation)}
