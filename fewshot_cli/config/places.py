"""Where recipes lie and where in a recipe its parts stand: what can be known without the schema, and so at once."""

from functools import cache
from pathlib import Path
from typing import Any

PARTS = {
    ("backbone",): "backbones",
    ("extractor",): "extractors",
    ("head",): "heads",
    ("solver",): "solvers",
    ("pretrain", "classifier"): "classifiers",
    ("pretrain", "solver"): "solvers",
    ("pretrain", "validation", "head"): "heads",
    ("metatrain", "validation", "head"): "heads",
}


def installed_recipes() -> dict[str, Path]:
    """The installed recipes by bare name."""
    import fewshot_cli.recipes as folder

    return {p.stem: p for p in sorted(Path(folder.__path__[0]).glob("*.yaml"))}


def part_name(part: Any) -> str | None:
    """The name of a part in raw data, written alone or in a mapping."""
    name = part.get("name") if isinstance(part, dict) else part
    return name if isinstance(name, str) else None


def chosen_parts(name_or_path: str) -> dict[tuple[str, ...], str]:
    """The names of the parts that a recipe and those it is based on choose, by their place; `dataset` is one of them.

    Nothing is checked: what cannot be read chooses nothing.
    """
    import yaml

    chosen: dict[tuple[str, ...], str] = {}
    path, seen = _file(name_or_path, None), set[Path]()
    while path is not None and path not in seen:
        seen.add(path)
        try:
            data = yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, ValueError, yaml.YAMLError):
            break
        if not isinstance(data, dict):
            break
        for place in (*PARTS, ("dataset",)):
            if (name := part_name(_inside(data, place))) is not None:
                chosen.setdefault(place, name)
        path = _file(str(data["base"]), path.parent) if "base" in data else None
    return chosen


def _inside(data: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _file(name_or_path: str, beside: Path | None) -> Path | None:
    """The file of a recipe, or of the base of one that lies in the folder `beside`."""
    for path in ([beside / f"{name_or_path.removesuffix('.yaml')}.yaml"] if beside else []) + [Path(name_or_path)]:
        if path.is_file():
            return path.resolve()
    return installed_recipes().get(name_or_path.removesuffix(".yaml"))


def recipes_of(dataset: str) -> list[str]:
    """The installed recipes for a dataset."""
    return [name for name, parts in _installed_parts().items() if parts.get(("dataset",)) == dataset]


@cache
def _installed_parts() -> dict[str, dict[tuple[str, ...], str]]:
    return {name: chosen_parts(name) for name in installed_recipes()}
