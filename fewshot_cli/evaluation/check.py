"""The gate of `fsl eval --check`: what a recipe expects on the given data, and the expectation that a run writes."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import say

if TYPE_CHECKING:  # the command line imports this for --help
    from fewshot_cli.config.schema import Recipe
    from fewshot_cli.evaluation.results import Judged

    JudgedT = TypeVar("JudgedT", bound=Judged)


class Check(StrEnum):
    """Which data is judged."""

    MEASURED = "measured"  # that which an entry of `expect` was measured on, or any where an entry names none
    ANY = "any"  # all


def judge(result: "JudgedT", recipe: "Recipe", check: Check = Check.MEASURED) -> "JudgedT":
    """Add `expect` to a result, and `passed`: within the tolerance of what the recipe expects, or above it.

    Without an entry for the result's data and weights `expect` is None and nothing is judged; under `any` the first
    entry counts.
    """
    hashes = result["hashes"]
    expect = recipe.expectation(hashes["data"], hashes["weights"])
    if expect is None and check is Check.ANY:
        expect = next(iter(recipe.expect), None)
    result["expect"] = None if expect is None else expect.model_dump()
    if expect is not None:
        result["passed"] = expect.passes(result["accuracy"])
    return result


def changes(recipe: "Recipe", plain: "Recipe", check: Check) -> list[str]:
    """What a recipe with its options measures otherwise than the plain one, as `key: this, not that`.

    The solver is no such change: which one finds the optimum must not matter. Under `any` the data is none either.
    """
    changed: list[str] = []
    skipped = ("pretrain", "metatrain", "solver", *(("dataset",) if check is Check.ANY else ()))
    ours, theirs = recipe.identity(), plain.identity()
    for section in ours.keys() - set(skipped):
        changed += _differences(section, ours[section], theirs[section])
    return sorted(changed)


def _differences(key: str, ours: Any, theirs: Any) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.get("name") == theirs.get("name"):
        return [line for k in sorted(ours | theirs) for line in _differences(f"{key}.{k}", ours.get(k), theirs.get(k))]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        ours, theirs = ours.get("name"), theirs.get("name")
    return [] if ours == theirs else [f"{key.replace('.options.', '.')} is {ours}, not {theirs}"]


def write_expect(path: Path, recipe: "Recipe", base: str, options: dict[str, Any], result: Mapping[str, Any]) -> None:
    """Write a recipe that is `base` with these options, and expects a result on its data, for a user's own CI.

    The tolerance is half of the interval, but at least 0.1: the episodes are the same, and only rounding differs from
    machine to machine. Raises `FslError` for a result of one episode, `DataError`
    when the disk refuses.
    """
    import yaml

    from fewshot_cli.config.places import installed_recipes
    from fewshot_cli.runtime.files import write_text

    if result["ci95"] is None:
        raise FslError(f"{path}: one episode says too little to expect its accuracy of others; evaluate more")

    expect = {
        "accuracy": round(result["accuracy"], 2),
        "tolerance": max(0.1, round(result["ci95"] / 2, 1)),
        "source": f"measured with weights {result['weights']}, seed {recipe.seed}",
        "data": result["hashes"]["data"],
        "weights": result["hashes"]["weights"],
        "two_sided": True,
    }
    if base not in installed_recipes():
        base = os.path.relpath(base, path.parent)
    data = {"base": base, "weights": recipe.weights or recipe.name, **options, "expect": expect}
    write_text(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    about = f"{expect['accuracy']:.2f} % within {expect['tolerance']:.1f}"
    say(f"expectation: {path}: {about}; check it with `fsl eval {path} --check`")
