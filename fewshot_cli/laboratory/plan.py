"""From what a sweep is asked to do to its cells: every combination as a recipe, with what it is compared by."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from fewshot_cli import registry
from fewshot_cli.config import overrides, strict_yaml
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import Recipe
from fewshot_cli.config.stages import DECIDES
from fewshot_cli.errors import FslError, RecipeError
from fewshot_cli.laboratory.schema import CellSpec, SweepSpec
from fewshot_cli.registry import did_you_mean

TASK = ("dataset", "split", "way", "shot", "query")  # what the task's columns may be
_OF_TASKS = ("dataset", "dataset.name", "dataset.store", "episode", "eval")  # keys that change the task, not the method
MOST_CELLS = 10_000
NO_SOLVER = "-"  # of a head that poses no transport problems


@dataclass(frozen=True)
class Cell:
    """One evaluation of a sweep. `method` and `task` tell by column what it is; cells of one task and seed have the
    same episodes. `folder` is the name of its run directory.
    """

    folder: str
    method: tuple[tuple[str, str], ...]
    task: tuple[tuple[str, Any], ...]
    seed: int
    recipe: Recipe
    base: str
    sets: tuple[str, ...]

    @property
    def label(self) -> str:
        """The method in words."""
        return ", ".join(value for _, value in self.method)


def cells_of(spec: SweepSpec, beside: Path | None = None) -> list[Cell]:
    """Every cell of a sweep; recipes' files may lie in the folder `beside`.

    Raises `RecipeError` when a combination is no recipe, `FslError` for a key that a grid cannot have.
    """
    _check_grid(spec)
    given = [*(CellSpec(recipe=name) for name in spec.recipe), *spec.cells]
    if not given:
        raise FslError("a sweep needs recipes: give --recipe, or recipe or cells in its file")
    combinations = [dict(zip(spec.grid, values, strict=True)) for values in product(*spec.grid.values())]
    if len(given) * len(combinations) * spec.seeds > MOST_CELLS:
        raise FslError(f"a sweep of {len(given) * len(combinations) * spec.seeds} cells; {MOST_CELLS} are allowed")
    columns, named = _columns(spec.grid), any(cell.name for cell in given)
    several = len({cell.name or cell.recipe for cell in given}) > 1
    cells: list[Cell] = []
    for one, values in product(given, combinations):
        base, sets = _beside(one.recipe, beside), _sets(spec, one, values)
        recipe = load_recipe(base, sets)
        if recipe.eval.protocol != "episodes":
            raise FslError(
                f"recipe {recipe.name}: has protocol {recipe.eval.protocol}; a sweep compares on few-shot episodes"
            )
        first = {"cell" if named else "recipe": one.name or Path(one.recipe).stem} if several else {}
        changed = {columns[key]: shown(value) for key, value in values.items() if not _of_task(key)}
        if "solver" in changed and not registry.head(recipe.head.name).needs_solver:
            changed["solver"] = NO_SOLVER
        method = first | changed or {"recipe": recipe.name}
        for seed in range(recipe.seed, recipe.seed + spec.seeds):
            of_seed = recipe.model_copy(update={"seed": seed})
            seeded = (*sets, f"seed={seed}") if spec.seeds > 1 else tuple(sets)
            cells.append(Cell("", tuple(method.items()), _task(recipe), seed, of_seed, base, seeded))
    return _with_folders(_solved_once(cells))


def parse_grid(texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """`--grid KEY=VALUE,VALUE` texts as keys with their values. Raises `RecipeError` for one that is not so."""
    grid: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not (equals and key.strip() and values.strip()):
            raise RecipeError(f"--grid {text}: write it as key=value,value, with values in YAML such as emd or [2, 1]")
        if key.strip() in grid:
            raise RecipeError(f"--grid {key.strip()}: is given twice; write all its values in one")
        grid[key.strip()] = tuple(strict_yaml.scalar(f"[{values}]", f"--grid {key.strip()}"))
    return grid


def command_words(verb: str, recipe: str, sets: Sequence[str]) -> list[str]:
    """The words of a command with a recipe and overrides."""
    return ["fsl", verb, "--recipe", recipe, *(word for text in sets for word in ("--set", text))]


def shown(value: Any) -> str:
    """A value in words: of a part its name, then its options."""
    if isinstance(value, Mapping) and "name" in value:
        options = [f"{key}={shown(option)}" for key, option in value.items() if key != "name"]
        return " ".join([str(value["name"]), *options])
    return value if isinstance(value, str) else json.dumps(value)


def baseline_of(cells: list[Cell], text: str | None) -> str:
    """The label that `text` means: a method's, or the only one with all its words; the first without a text."""
    labels = list(dict.fromkeys(cell.label for cell in cells))
    if text is None or text in labels:
        return text or labels[0]
    words = text.replace(",", " ").split()
    found = [label for label in labels if set(words) <= set(label.replace(",", " ").split())]
    if len(found) != 1:
        problem = "is no method" if not found else "may be several methods"
        hint = did_you_mean(text, labels) if not found else ""
        raise FslError(f"baseline {text}: {problem} of this sweep{hint}; it has {'; '.join(found or labels)}")
    return found[0]


def _check_grid(spec: SweepSpec) -> None:
    for key, values in spec.grid.items():
        section = key.partition(".")[0]
        if key in ("seed", "eval.episodes"):
            raise FslError(
                f"grid {key}: all cells have the same episodes; use {'--seeds' if key == 'seed' else '--set'}"
            )
        if section not in DECIDES:
            raise FslError(f"grid {key}: a recipe has no such key{did_you_mean(section, DECIDES)}")
        if section != "weights" and "episodes" not in DECIDES[section]:
            raise FslError(
                f"grid {key}: changes training, not evaluation; a search in a sweep's file tries such options"
            )
        if len({shown(value) for value in values}) < len(values):
            raise FslError(f"grid {key}: has a value twice; leave one out")
        where = [spec.set, *(cell.set for cell in spec.cells)]
        if any(key in settings for settings in where):
            raise FslError(f"grid {key}: is also set for all cells; leave one out")


def _of_task(key: str) -> bool:
    return key in _OF_TASKS or key.startswith(("episode.", "eval."))


def _sets(spec: SweepSpec, cell: CellSpec, values: Mapping[str, Any]) -> list[str]:
    """All settings of a cell as `--set` texts, a part before its options."""
    merged = {**spec.set, **cell.set, **values}
    return [overrides.written(key, merged[key]) for key in sorted(merged, key=lambda key: key.count("."))]


def _columns(keys: Iterable[str]) -> dict[str, str]:
    """Short headings for keys: their last word, unless that says nothing or is another's too."""
    short = {key: key.removesuffix(".name").rpartition(".")[2] for key in keys}
    taken = [*short.values(), "recipe", "cell", *TASK]
    return {key: word if taken.count(word) == 1 or _of_task(key) else key for key, word in short.items()}


def _task(recipe: Recipe) -> tuple[tuple[str, Any], ...]:
    spec = recipe.episode
    values = (recipe.store, recipe.eval.split, spec.way, spec.shot, spec.query)
    without = (("without", recipe.eval.without),) if recipe.eval.without else ()
    return (*zip(TASK, values, strict=True), *without)


def varied_tasks(cells: Iterable[Cell]) -> list[str]:
    """The columns of the task in which cells differ."""
    tasks = [dict(cell.task) for cell in cells]
    columns = dict.fromkeys(column for task in tasks for column in task)
    return [column for column in columns if len({task.get(column) for task in tasks}) > 1]


def _beside(recipe: str, folder: Path | None) -> str:
    """A recipe's file in the folder, if there is one of this name."""
    if folder is not None:
        for path in (folder / recipe, folder / f"{recipe}.yaml"):
            if path.is_file():
                return str(path)
    return recipe


def _solved_once(cells: Iterable[Cell]) -> list[Cell]:
    """The cells, one for all solvers where the head poses no transport problems."""
    kept: dict[Any, Cell] = {}
    for number, cell in enumerate(cells):
        alone = ("solver", NO_SOLVER) in cell.method
        kept.setdefault((cell.base, cell.method, cell.task, cell.seed, None if alone else number), cell)
    return list(kept.values())


def _with_folders(cells: list[Cell]) -> list[Cell]:
    """The cells, each with a folder's name of its own that says what it is."""
    columns, seeds = varied_tasks(cells), len({cell.seed for cell in cells}) > 1
    taken: dict[str, int] = {}
    out = []
    for cell in cells:
        task = dict(cell.task)
        words = [value for _, value in cell.method]
        words += [
            f"{task[column]}-{column}" if isinstance(task.get(column), int) else str(task.get(column))
            for column in columns
        ]
        words += [f"seed-{cell.seed}"] if seeds else []
        name = re.sub(r"[^A-Za-z0-9._=-]+", "_", ",".join(word.replace(" ", "_") for word in words)).strip("._")[:100]
        taken[name] = taken.get(name, 0) + 1
        folder = name if taken[name] == 1 else f"{name}-{taken[name]}"
        out.append(Cell(folder, cell.method, cell.task, cell.seed, cell.recipe, cell.base, cell.sets))
    identities = [(cell.method, cell.task, cell.seed) for cell in out]
    if len(set(identities)) < len(identities):
        twice = next(cell for cell in out if identities.count((cell.method, cell.task, cell.seed)) > 1)
        raise FslError(f"{twice.label}: two cells of this name have the same task; give one of them another name")
    return out
