"""A paper's table, run row by row on shared episodes beside the printed values."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.config.load import installed_recipes, load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.prepare import open_dataset
from fewshot_cli.errors import DataError, FslError, RecipeError
from fewshot_cli.evaluation.episodes import episodes_per_call, run_episodes
from fewshot_cli.evaluation.model import Model
from fewshot_cli.evaluation.stats import INTERVAL, mean_ci95, paired
from fewshot_cli.papers.catalog import chosen
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.processes import World
from fewshot_cli.runtime.runs import Run, versions
from fewshot_cli.weights.find import find_weights

ROWS = "rows.jsonl"


def recipe_for(dataset: str, weights: Path | None) -> str:
    """The 1-shot EMD recipe of a dataset: the first whose backbone has weights at hand (those given), else the first.

    Raises `RecipeError` when no recipe is for the dataset.
    """
    known = [n for n in installed_recipes() if n.split("_5w1s")[0] == dataset and "_5w1s" in n]
    known = [n for n in known if load_recipe(n).head.name == "emd"]
    if not known:
        raise RecipeError(
            f"--dataset {dataset}: no recipe {dataset}_5w1s is installed; `fsl list recipes` shows those that "
            "are, or give --recipe with a 1-shot recipe of your own"
        )
    for name in known:
        one = load_recipe(name)
        try:
            find_weights(one, weights).checkpoint.fill(build_backbone(one), "backbone", f"backbone {one.backbone.name}")
        except FslError:
            continue
        if name != known[0]:
            say(
                f"recipe: {name}, since {known[0]} has no weights here"
                if weights is None
                else f"recipe: {name}, whose backbone these weights are for"
            )
        return name
    return known[0]


@dataclass(frozen=True)
class Request:
    """What a table is run with; `sets` are `--set` options for every row, `wanted` parts of row names (none: all)."""

    base: str
    sets: tuple[str, ...]
    solver: str | None
    seed: int | None
    episodes: int
    wanted: tuple[str, ...]
    weights: Path | None
    root: Path
    device: torch.device

    def runner(self, run_dir: Path) -> "Runner":
        """What evaluates a row."""
        return Runner(self)

    def recipe(self, row: dict[str, Any], column: dict[str, int]) -> Recipe:
        """The recipe of one row and column."""
        return load_recipe(self.base, self._sets(row, column), self.solver, self.seed)

    def _sets(self, row: dict[str, Any], column: dict[str, int]) -> list[str]:
        pinned = [] if any(s.startswith("extractor=") for s in row["set"]) else ["extractor=fcn"]
        return [
            *pinned,
            *row["set"],
            *self.sets,
            *(f"episode.{k}={v}" for k, v in column.items()),
            f"eval.episodes={self.episodes}",
        ]

    def command(self, row: dict[str, Any], column: dict[str, int]) -> str:
        """The `fsl eval` command of one row and column."""
        named = {"solver": self.solver, "seed": self.seed, "weights": self.weights}
        words = [word for s in self._sets(row, column) for word in ("--set", s)]
        words += [word for k, v in named.items() if v is not None for word in (f"--{k}", str(v))]
        return shlex.join(["fsl", "eval", "--recipe", self.base, *words])


def run(table: dict[str, Any], ask: Request, run_dir: Path, resume: bool) -> dict[str, Any]:
    """Run the rows asked for, the reference first; a row that cannot run says why and stops no other.

    A record holds row, way, shot, ours (accuracy, ci95) or `missing`, the published value and where it was measured,
    the paired difference to the reference row (or `difference_missing`), and the command. A row that could not run is
    tried again when the table is resumed. Raises `RecipeError` when no row's name is meant, `DataError` when data or
    weights are others than those of the rows already there.
    """
    rows = chosen(table, ask.wanted)
    reference = next(r for r in table["rows"] if r["name"] == table["reference"])
    plain = ask.recipe(reference, table["columns"][0])
    identity = {
        "table": table["name"],
        "recipe": plain.identity(),
        "episodes": ask.episodes,
        "device": ask.device.type,
        "sets": list(ask.sets),
    }
    job, hashes = Run(run_dir, "table", plain.resolved(), identity, resume), _hashes(plain, ask)
    done = {(r["row"], r["way"], r["shot"]): r for r in job.lines(ROWS) if "missing" not in r}
    if other := next((r for r in done.values() if r["hashes"] != hashes), None):
        raise DataError(
            f"{run_dir}: row {other['row']} was run on other data or weights than those here now; resume it with "
            "the same ones or choose another --run-dir"
        )
    runner = ask.runner(run_dir)
    ordered = [reference, *(r for r in rows if r is not reference)]
    for column in table["columns"]:
        for row in ordered:
            place = (row["name"], column["way"], column["shot"])
            if place in done or "set" not in row:
                continue
            say(f"{table['name']}: {row['name']}, {column['way']}-way {column['shot']}-shot")
            where = {k: v for k, v in column.items() if k != "set"}
            made = runner(row, column)
            done[place] = {
                "row": row["name"],
                **where,
                **made,
                "hashes": hashes,
                **({} if "missing" in made else {"command": runner.command(row, column)}),
            }
            job.append(ROWS, [done[place]])
    records = [_record(table, row, i, done, plain.dataset.name) for row in rows for i in range(len(table["columns"]))]
    result = {
        "format": 1,
        "table": table["name"],
        "title": table["title"],
        "source": table["source"],
        "base": ask.base,
        "dataset": plain.dataset.name,
        "episodes": ask.episodes,
        "reference": table["reference"],
        "interval": INTERVAL,
        "records": records,
        "versions": versions(),
        "run_dir": str(run_dir),
    }
    if all("missing" not in r for r in done.values()):
        job.finish(result)
    if all("missing" in r for r in done.values()):
        job.discard(ROWS)
        result["run_dir"] = None
    return result


def _hashes(plain: Recipe, ask: Request) -> dict[str, str | None]:
    """Hashes of data and weights, empty where one is not at hand: a resumed table must not mix others in."""
    try:
        data = open_dataset(plain.dataset.name, plain.store, ask.root).index["sha256"]
        return {"data": data, "weights": find_weights(plain, ask.weights).checkpoint.sha256}
    except FslError:
        return {}


class Runner:
    """Evaluates rows, keeping the last features and weights for the next row that needs them."""

    def __init__(self, ask: Request) -> None:
        self.ask, self._features = ask, ("", None)

    def __call__(self, row: dict[str, Any], column: dict[str, int]) -> dict[str, Any]:
        begin = perf_counter()
        try:
            accuracies = self._accuracies(self.ask.recipe(row, column), self.weights(row, column))
        except FslError as fault:
            return {"missing": str(fault)}
        return {"accuracies": accuracies, "seconds": perf_counter() - begin}

    def command(self, row: dict[str, Any], column: dict[str, Any]) -> str:
        """What evaluates one row and column alone."""
        return self.ask.command(row, column)

    def weights(self, row: dict[str, Any], column: dict[str, Any]) -> Path | None:
        """The weights of a row, None for those of its recipe."""
        return self.ask.weights

    def _accuracies(self, one: Recipe, given: Path | None) -> list[float]:
        model = Model.open(one, self.ask.root, World(self.ask.device), given, with_dataset=True)
        features = self._have(model.feature_key(model.split), model.features)
        head, sampler, out = model.head, model.sampler, []
        features = features.to(model.matching_device)
        batch = episodes_per_call(head, sampler, features)
        with progress(one.head.name, self.ask.episodes) as bar:

            def keep(records: list[dict[str, Any]]) -> None:
                out.extend(r["accuracy"] for r in records)
                bar.update(len(out), "{:.2f} ± {:.2f} %".format(*mean_ci95(out)))

            run_episodes(head, features, sampler, range(self.ask.episodes), batch, keep)
        return out

    def _have(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if self._features[0] != name:
            self._features = (name, make())
        return self._features[1]


def _record(
    table: dict[str, Any], row: dict[str, Any], place: int, done: dict[tuple, dict], dataset: str
) -> dict[str, Any]:
    column = table["columns"][place]
    out: dict[str, Any] = {"row": row["name"], "way": column["way"], "shot": column["shot"]}
    ours = done.get((row["name"], column["way"], column["shot"]), {"missing": "not part of this package"})
    base = done.get((table["reference"], column["way"], column["shot"]), {})
    if "missing" in ours:
        out["missing"] = ours["missing"]
    else:
        out["accuracy"], out["ci95"] = mean_ci95(ours["accuracies"])
        if row["name"] != table["reference"]:
            if "missing" in base:
                out["difference_missing"] = base["missing"]
            else:
                out["difference"], out["difference_ci95"] = paired(ours["accuracies"], base["accuracies"])
        out |= {"seconds": ours["seconds"], "command": ours["command"]}
    printed = row.get("published", {})
    where = dataset if dataset in printed else table["home"] if table["home"] in printed and "set" in row else None
    value = printed[where][place] if where else None
    if value:
        out |= {"published": value[0], "published_on": where}
        if len(value) > 1:
            out["published_ci95"] = value[1]
    return out


def missing_everywhere(result: dict[str, Any]) -> str | None:
    """Why nothing at all could be run, or None."""
    ran = [r for r in result["records"] if "accuracy" in r]
    return None if ran else next(r["missing"] for r in result["records"])
