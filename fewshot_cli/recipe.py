"""A recipe: YAML and `--set` → one frozen, typed value; every fault is `file:line: key: reason`."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from fewshot_cli import registry, strictyaml
from fewshot_cli.errors import RecipeError

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PartSpec(BaseModel):
    """A part by name with its validated options; written `name` alone or a mapping with `name` and the options."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    name: str
    options: Any = None

    @field_serializer("options")
    def _plain(self, options: Any) -> Any:
        return json.loads(options.model_dump_json()) if options is not None else {}


class DatasetSpec(_Section):
    """Which prepared dataset, and whether pictures that have a bounding box are cropped to it."""

    name: str = Field(description="a dataset of `fsl list datasets`")
    store: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
                              description="name it was prepared under (default: name)")
    crop: Literal["box", "raw"] = Field("box", description="crop to the box where the dataset has boxes, or not")


class ImageSpec(_Section):
    """The fixed part of preprocessing: squash to resize×resize, centre-crop size×size, normalise."""

    size: int = Field(84, ge=8, le=1024, description="side of the network's input")
    resize: int | None = Field(None, ge=8, le=1024, description="side after squashing, before the centre crop")
    mean: tuple[float, float, float] = (125.3 / 255, 123.0 / 255, 113.9 / 255)
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (
        63.0 / 255, 62.1 / 255, 66.7 / 255)  # fmt: skip

    @property
    def decoded(self) -> int:
        """Side of a decoded picture before the centre crop."""
        return max(self.size, self.resize or self.size)


class EpisodeSpec(_Section):
    """The shape of an evaluation episode."""

    way: int = Field(5, ge=2, le=1000)
    shot: int = Field(1, ge=1, le=1000)
    query: int = Field(15, ge=1, le=1000, description="queries a class")


class EvalSpec(_Section):
    """Which split, and how many episodes."""

    split: Literal["train", "val", "test"] = "test"
    episodes: Count = 600


class AugmentSpec(_Section):
    """Training augmentation, drawn on the device for a whole batch."""

    crop: Literal["none", "pad", "random_resized"] = "random_resized"
    scale: tuple[Rate, Rate] = Field((0.08, 1.0), description="area share of a random resized crop")
    flip: bool = True
    jitter: Rate = Field(0.0, description="strength of brightness, contrast and saturation changes")


class OptimizerSpec(_Section):
    """The optimiser of a training verb."""

    name: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(0.1, gt=0, le=1000)
    momentum: Rate = 0.9
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0, le=1)


class ScheduleSpec(_Section):
    """Learning rate over epochs; `step` multiplies by gamma every `every` epochs."""

    name: Literal["constant", "step", "cosine"] = "step"
    every: Count = 30
    gamma: Rate = 0.2


class ValidateSpec(_Section):
    """Few-shot episodes on the validation split, on which the best checkpoint is chosen."""

    every: Count = Field(1, description="epochs between validations")
    episodes: Count = 100
    shot: int = Field(1, ge=1, le=1000)
    head: PartSpec | None = Field(None, description="head to validate with (default: the recipe's)")


class PretrainSpec(_Section):
    """Cross-entropy over all base classes (DeepEMD's first stage)."""

    epochs: Count = 120
    batch: int = Field(128, ge=2, le=65536)
    classifier: PartSpec = PartSpec(name="linear")
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    augment: AugmentSpec = AugmentSpec()
    label_smoothing: Rate = 0.0
    precision: Literal["32", "bf16"] = "32"
    validation: ValidateSpec = ValidateSpec()


class MetatrainSpec(_Section):
    """Episodes, end to end through the head (DeepEMD's second stage)."""

    epochs: Count = 100
    steps: Count = Field(50, description="optimiser steps an epoch")
    episodes_per_step: Count = 1
    way: int = Field(5, ge=2, le=1000)
    shot: int = Field(1, ge=1, le=1000)
    query: int = Field(15, ge=1, le=1000)
    optimizer: OptimizerSpec = OptimizerSpec(lr=5e-4)
    schedule: ScheduleSpec = ScheduleSpec(every=10, gamma=0.5)
    augment: AugmentSpec = AugmentSpec()
    precision: Literal["32", "bf16"] = "32"
    validation: ValidateSpec = ValidateSpec(episodes=1000)


class ExpectSpec(_Section):
    """What `eval --check` compares with: per cent, and how far off is still a pass."""

    accuracy: float = Field(ge=0, le=100)
    tolerance: float = Field(gt=0, le=100)
    source: str


class Recipe(_Section):
    """Everything a run depends on."""

    name: str
    description: str = ""
    dataset: DatasetSpec
    image: ImageSpec = ImageSpec()
    backbone: PartSpec
    head: PartSpec
    solver: PartSpec = PartSpec(name="network_simplex")
    weights: str | None = Field(None, description="shipped or trained weights by name")
    seed: int = Field(1, ge=0, lt=2**63)
    episode: EpisodeSpec = EpisodeSpec()
    eval: EvalSpec = EvalSpec()
    pretrain: PretrainSpec = PretrainSpec()
    metatrain: MetatrainSpec = MetatrainSpec()
    expect: ExpectSpec | None = None

    @property
    def store(self) -> str:
        """Name of the packed store the recipe reads."""
        return self.dataset.store or self.dataset.name

    def resolved(self) -> dict[str, Any]:
        """Plain data with every default filled in."""
        return json.loads(self.model_dump_json())

    def identity(self) -> dict[str, Any]:
        """What decides the result: `resolved` without words, expectations and options that only change speed."""
        data = {k: v for k, v in self.resolved().items() if k not in ("name", "description", "expect")}
        fast = [k for k, f in type(self.solver.options).model_fields.items() if (f.json_schema_extra or {}).get("speed")]
        data["solver"]["options"] = {k: v for k, v in data["solver"]["options"].items() if k not in fast}
        return data


_PARTS = {("backbone",): "backbones", ("head",): "heads", ("solver",): "solvers",
          ("pretrain", "classifier"): "classifiers", ("pretrain", "validation", "head"): "heads",
          ("metatrain", "validation", "head"): "heads"}  # fmt: skip


class _Source:
    """Raw data of a recipe with the place of each key, for messages."""

    def __init__(self, where: str, data: dict[str, Any], lines: dict[tuple, int]) -> None:
        self.data = data
        self.places = {path: f"{where}:{line}" for path, line in lines.items()}
        self.where = where

    def fault(self, path: tuple, reason: str) -> RecipeError:
        given = next((p for p in self.places if p[: len(path)] == path and self.places[p].startswith("--set ")), None)
        if given and path not in self.places:  # a key inside this one was given by --set
            return RecipeError(f"{self.places[given]}: {'.'.join(map(str, path))}: {reason}")
        for cut in range(len(path), 0, -1):
            if path[:cut] in self.places:
                return RecipeError(f"{self.places[path[:cut]]}: {'.'.join(map(str, path))}: {reason}")
        return RecipeError(f"{self.where}: {'.'.join(map(str, path))}: {reason}")

    def over(self, base: "_Source") -> "_Source":
        """This source laid over its base: mappings merge, a part of another name replaces.

        What a recipe expects of itself (`expect`, `description`) is not passed on.
        """
        kept = {k: v for k, v in base.data.items() if k not in ("expect", "description")}
        out = _Source(self.where, _merge(kept, self.data), {})
        out.places = base.places | self.places
        return out


def _merge(base: Any, top: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    if "name" in top and "name" in base and top["name"] != base["name"]:
        return top
    return {**base, **{k: _merge(base.get(k), v) for k, v in top.items()}}


def installed() -> dict[str, Path]:
    """The installed recipes by bare name."""
    import fewshot_cli.recipes as folder

    return {p.stem: p for p in sorted(Path(folder.__path__[0]).glob("*.yaml"))}


def find(name_or_path: str) -> Path:
    """The file of a recipe: a path, or a bare name among the installed ones. Raises `RecipeError`."""
    path = Path(name_or_path)
    known = installed()
    try:
        if path.exists():
            return path
    except OSError as fault:
        raise RecipeError(f"{name_or_path[:80]}: no such recipe ({fault.strerror})") from fault
    if path.name == name_or_path and path.name.removesuffix(".yaml") in known:
        return known[path.name.removesuffix(".yaml")]
    hint = registry.did_you_mean(path.name.removesuffix(".yaml"), known)
    raise RecipeError(f"{name_or_path}: no such recipe{hint}; `fsl list recipes` shows those installed")


def _read(path: Path, seen: tuple[Path, ...] = ()) -> _Source:
    source = _Source(str(path), *strictyaml.load(path))
    base = source.data.pop("base", None)
    if base is None:
        return source
    if not isinstance(base, str):
        raise source.fault(("base",), "must be the name or path of a recipe")
    beside = path.parent / f"{base.removesuffix('.yaml')}.yaml"
    parent = beside if beside.exists() else find(base)
    if parent.resolve() in (*seen, path.resolve()):
        raise source.fault(("base",), f"{base} leads back to this recipe")
    return source.over(_read(parent, (*seen, path.resolve())))


def load(name_or_path: str, sets: list[str] | None = None, solver: str | None = None, seed: int | None = None) -> Recipe:
    """Read, override and validate a recipe. `sets` are `key.path=value` strings. Raises `RecipeError`."""
    path = find(name_or_path)
    source = _read(path)
    if "name" in source.data:
        raise source.fault(("name",), "unknown key; a recipe is named by its file")
    source.data["name"] = path.stem
    overrides = [*([f"seed={seed}"] if seed is not None else []), *(sets or [])]
    if solver is not None:
        overrides.insert(0, f"solver={json.dumps(solver)}")
    for text in overrides:
        _override(source, text)
    return validate(source)


def _override(source: _Source, text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text}: write it as key=value, for example --set episode.shot=5")
    path = tuple(key.strip().split("."))
    if path == ("name",):
        raise RecipeError(f"--set {text}: a recipe is named by its file; copy it with `fsl recipe cp` to rename it")
    spot = source.data
    for i, word in enumerate(path[:-1]):
        inner = spot.get(word)
        if isinstance(inner, str) and path[: i + 1] in _PARTS:
            inner = {"name": inner}
        elif inner is not None and not isinstance(inner, dict):
            raise RecipeError(f"--set {text}: {'.'.join(path[: i + 1])} has no keys inside")
        spot[word] = dict(inner or {})
        spot = spot[word]
    spot[path[-1]] = strictyaml.scalar(value)
    for old in [p for p in source.places if p[: len(path)] == path]:
        del source.places[old]
    source.places[path] = f"--set {key.strip()}"


def validate(source: _Source) -> Recipe:
    """Check raw data against the schema and every part's options. Raises `RecipeError` for the first fault."""
    data = json.loads(json.dumps(source.data))
    parts: dict[tuple, PartSpec] = {}
    for path, kind in _PARTS.items():
        spot = data
        for word in path[:-1]:
            spot = spot.get(word) if isinstance(spot, dict) else None
        if isinstance(spot, dict) and spot.get(path[-1]) is not None:
            parts[path] = _part(source, kind, path, spot[path[-1]])
            spot[path[-1]] = {"name": parts[path].name}
    recipe = check(Recipe, data, source)
    try:
        registry.part("datasets", recipe.dataset.name)
    except RecipeError as fault:
        raise source.fault(("dataset", "name"), str(fault)) from fault
    return _with_parts(recipe, parts)


def _part(source: _Source, kind: str, path: tuple, raw: Any) -> PartSpec:
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise source.fault(path, f"must be a name, or a mapping with a name and options, of a {kind[:-1]}")
    try:
        cls = registry.part(kind, raw["name"])
    except RecipeError as fault:
        raise source.fault(path, str(fault)) from fault
    options = check(cls.Options, {k: v for k, v in raw.items() if k != "name"}, source, path)
    return PartSpec(name=raw["name"], options=options)


def _with_parts(recipe: Recipe, parts: dict[tuple, PartSpec]) -> Recipe:
    """Put validated parts in place; parts nobody named get their default options."""

    def place(section: BaseModel, path: tuple) -> BaseModel:
        update = {}
        for key in type(section).model_fields:
            value, here = getattr(section, key), (*path, key)
            if here in _PARTS and value is not None:
                update[key] = parts.get(here) or default_part(_PARTS[here], value.name)
            elif isinstance(value, _Section):
                update[key] = place(value, here)
        return section.model_copy(update=update)

    return place(recipe, ())


def default_part(kind: str, name: str, **options: Any) -> PartSpec:
    """A part by name with the given options, others at their defaults."""
    return PartSpec(name=name, options=registry.part(kind, name).Options(**options))


def check(model: type[BaseModel], data: dict[str, Any], source: "_Source | str", path: tuple = ()) -> Any:
    """Validate plain data strictly against a model; the first fault as a `RecipeError` with its place."""
    if isinstance(source, str):
        source = _Source(source, data, {})
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as fault:
        error = fault.errors(include_url=False)[0]
        where = (*path, *error["loc"])
        if error["type"] == "extra_forbidden":
            owner = _model_at(model, error["loc"][:-1])
            names = [k for k in owner.model_fields if k != "name" or owner is not Recipe] if owner else []
            hint = registry.did_you_mean(str(error["loc"][-1]), names)
            raise source.fault(where, f"unknown key{hint}; known here: {', '.join(names) or 'none'}") from fault
        if error["type"] == "missing":
            raise source.fault(where, "is missing; every recipe needs it") from fault
        given = f", not {error['input']!r}" if not isinstance(error["input"], (dict, list)) else ""
        raise source.fault(where, f"{error['msg'][0].lower()}{error['msg'][1:]}{given}") from fault


def _model_at(model: type[BaseModel], loc: tuple) -> type[BaseModel] | None:
    for word in loc:
        field = model.model_fields.get(str(word))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    return model


def fingerprint(data: Any) -> str:
    """SHA-256 of plain data in canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


__all__ = ["PartSpec", "Recipe", "check", "default_part", "find", "fingerprint", "installed", "load"]
