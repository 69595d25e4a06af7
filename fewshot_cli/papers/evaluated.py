"""A paper's table of few-shot accuracies, run row by row on shared episodes beside the printed values."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.prepare import open_dataset
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.evaluation.comparisons import add_standings
from fewshot_cli.evaluation.episodes import episodes_per_call, run_episodes
from fewshot_cli.evaluation.model import Model, Shared
from fewshot_cli.evaluation.results import EpisodeRecord
from fewshot_cli.evaluation.stats import INTERVAL, mean_ci95, paired
from fewshot_cli.papers.catalog import chosen_rows
from fewshot_cli.papers.recipes import recipe_for
from fewshot_cli.papers.request import Request
from fewshot_cli.papers.schema import (
    EpisodesColumn,
    EpisodesTable,
    EvaluatedRow,
    MetatrainedColumn,
    MetatrainedRow,
)
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.render import plus_minus
from fewshot_cli.runtime.runs import TIMES, Run, versions
from fewshot_cli.weights.find import find_weights

ROWS = "rows.jsonl"
Row = EvaluatedRow | MetatrainedRow
Column = EpisodesColumn | MetatrainedColumn


class Cells(Protocol):
    """How the cells of one kind of table are evaluated: a recipe, weights, and the commands that do it alone."""

    def recipe(self, row: Any, column: Any) -> Recipe:
        """The recipe by which a row and column are evaluated."""

    def weights(self, row: Any, column: Any) -> Path | None:
        """The weights that they are evaluated with, None for those of the recipe."""

    def command(self, row: Any, column: Any) -> str:
        """The command line that gives the same."""


class EvaluatedCells:
    """Rows are whole parts put into one 1-shot recipe, and evaluated with its weights."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.base = request.recipe or recipe_for(request.dataset or "", request.weights)

    def recipe(self, row: EvaluatedRow, column: EpisodesColumn) -> Recipe:
        """As `Cells.recipe`."""
        return load_recipe(self.base, self._sets(row, column), self.request.solver, self.request.seed)

    def weights(self, row: EvaluatedRow, column: EpisodesColumn) -> Path | None:
        """As `Cells.weights`: those of the request."""
        return self.request.weights

    def command(self, row: EvaluatedRow, column: EpisodesColumn) -> str:
        """As `Cells.command`."""
        return self.request.command("eval", self.base, self._sets(row, column), weights=self.request.weights)

    def _sets(self, row: EvaluatedRow, column: EpisodesColumn) -> list[str]:
        options = row.set or ()
        pinned = [] if any(text.startswith("extractor=") for text in options) else ["extractor=fcn"]
        episodes = [f"episode.way={column.way}", f"episode.shot={column.shot}"]
        return [*pinned, *options, *self.request.sets, *episodes, f"eval.episodes={self.request.episodes}"]


def run(
    table: EpisodesTable,
    request: Request,
    cells: Cells,
    base: str,
    run_dir: Path,
    resume: bool,
    partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run the rows asked for, the reference first; a row that cannot run says why and stops no other.

    `base` is the recipe or the dataset that the rows have in common. A record holds row, way, shot, ours (accuracy,
    ci95) or `missing`, the published value and where it was measured, the paired difference to the reference row (or
    `difference_missing`), and the command. A row that could not run is tried again when the table is resumed. Raises
    `RecipeError` when no row's name matches, `DataError` when data or weights differ from those of the rows
    already there. Where it is interrupted, `partial` gets the table as far as it is done before.
    """
    rows: list[Any] = chosen_rows(table.name, table.rows, request.rows)
    reference = next(row for row in table.rows if row.name == table.reference)
    plain = cells.recipe(reference, table.columns[0])
    decided_by = {
        "table": table.name,
        "recipe": plain.identity(),
        "episodes": request.episodes,
        "device": request.processes.device.type,
        "sets": list(request.sets),
    }
    job, hashes = Run(run_dir, "table", plain.resolved(), decided_by, resume), _hashes(plain, request)
    done = {_place(r): r for r in job.lines(ROWS) if "missing" not in r}
    seconds = {_place(r): r["seconds"] for r in job.lines(TIMES)}
    done = {place: {**r, "seconds": r.get("seconds", seconds.get(place))} for place, r in done.items()}
    if other := next((r for r in done.values() if r["hashes"] != hashes), None):
        raise DataError(
            f"{run_dir}: row {other['row']} was run on other data or weights than the present ones; resume it with "
            "the same ones or choose another --run-dir"
        )
    evaluate = _Evaluator(request, cells)
    ordered = [reference, *(row for row in rows if row is not reference)]
    todo = [(row.name, c.way, c.shot) for c in table.columns for row in ordered if row.set is not None]
    todo = [place for place in todo if place not in done]
    for column in table.columns:
        for row in ordered:
            place = (row.name, column.way, column.shot)
            if place not in todo:
                continue
            task = f"{column.way}-way {column.shot}-shot"
            evaluate.title = f"{todo.index(place) + 1}/{len(todo)} {row.name}"
            say(f"{table.name}, row {todo.index(place) + 1} of {len(todo)}: {row.name}, {task}")
            try:
                made = evaluate(row, column)
            except KeyboardInterrupt:
                if partial is not None and any("accuracies" in r for r in done.values()):
                    left = {other: {"missing": "interrupted"} for other in todo if other not in done}
                    partial(_result(table, request, base, run_dir, rows, {**done, **left}, plain))
                raise
            command = {} if "missing" in made else {"command": cells.command(row, column)}
            where = {"row": row.name, "way": column.way, "shot": column.shot}
            done[place] = {**where, **made, "hashes": hashes, **command}
            if "seconds" in made:  # in a file of their own, so that equal runs have equal rows
                job.append(TIMES, [{**where, "seconds": made["seconds"]}])
            job.append(ROWS, [{key: value for key, value in done[place].items() if key != "seconds"}])
    result = _result(table, request, base, run_dir, rows, done, plain)
    if all("missing" not in r for r in done.values()):
        job.finish(result)
    if all("missing" in r for r in done.values()):
        job.discard(ROWS, TIMES)
        result["run_dir"] = None
    return result


def _result(
    table: EpisodesTable,
    request: Request,
    base: str,
    run_dir: Path,
    rows: list[Any],
    done: dict[tuple[str, int, int], dict[str, Any]],
    plain: Recipe,
) -> dict[str, Any]:
    """The table as far as it is `done`."""
    places = range(len(table.columns))
    records = [_record(table, row, place, done, plain.dataset.name) for row in rows for place in places]
    _add_standings(records, done)
    return {
        "format": 1,
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "base": base,
        "dataset": plain.dataset.name,
        "episodes": request.episodes,
        "reference": table.reference,
        "interval": INTERVAL,
        "records": records,
        "versions": versions(),
        "run_dir": str(run_dir),
    }


def _place(record: dict[str, Any]) -> tuple[str, int, int]:
    return record["row"], record["way"], record["shot"]


def _hashes(plain: Recipe, request: Request) -> dict[str, str | None]:
    """Hashes of data and weights, empty where one is not at hand: a resumed table must not mix others in."""
    try:
        data = open_dataset(plain.dataset.name, plain.store, request.root).index["sha256"]
        return {"data": data, "weights": find_weights(plain, request.weights).checkpoint.sha256}
    except FslError:
        return {}


class _Evaluator:
    """Evaluates cells, each keeping for the next what they have in common."""

    def __init__(self, request: Request, cells: Cells) -> None:
        self.request, self.cells, self.shared = request, cells, Shared()
        self.title = ""  # of the bar: which row of how many

    def __call__(self, row: Row, column: Column) -> dict[str, Any]:
        begin = perf_counter()
        try:
            accuracies = self._accuracies(self.cells.recipe(row, column), self.cells.weights(row, column))
        except FslError as error:
            return {"missing": str(error)}
        return {"accuracies": accuracies, "seconds": perf_counter() - begin}

    def _accuracies(self, recipe: Recipe, weights: Path | None) -> list[float]:
        request = self.request
        model = Model.open(recipe, request.root, request.processes, weights, with_dataset=True, shared=self.shared)
        features = model.features()
        accuracies: list[float] = []
        with progress(self.title or recipe.head.name, request.episodes, "episodes") as bar:

            def keep(records: list[EpisodeRecord]) -> None:
                accuracies.extend(r["accuracy"] for r in records)
                bar.update(len(accuracies), plus_minus(*mean_ci95(accuracies)) + " %")

            batch = episodes_per_call(model.head, model.sampler, features)
            numbers = range(request.episodes)
            run_episodes(model.head, features, model.sampler, numbers, batch, keep, gradual=True)
        return accuracies


def _record(
    table: EpisodesTable, row: Row, place: int, done: dict[tuple[str, int, int], dict[str, Any]], dataset: str
) -> dict[str, Any]:
    column = table.columns[place]
    out: dict[str, Any] = {"row": row.name, "way": column.way, "shot": column.shot}
    ours = done.get((row.name, column.way, column.shot), {"missing": "not part of this package"})
    base = done.get((table.reference, column.way, column.shot), {})
    if "missing" in ours:
        out["missing"] = ours["missing"]
    else:
        out["accuracy"], out["ci95"] = mean_ci95(ours["accuracies"])
        if row.name != table.reference:
            if "missing" in base:
                out["difference_missing"] = base["missing"]
            else:
                out["difference"], out["difference_ci95"] = paired(ours["accuracies"], base["accuracies"])
        out |= {"seconds": ours["seconds"], "command": ours["command"]}
    printed = row.published
    where = (
        dataset
        if dataset in printed
        else table.default_dataset
        if table.default_dataset in printed and row.set is not None
        else None
    )
    value = printed[where][place] if where else None
    if value:
        out |= {"published": value.accuracy, "published_on": where}
        if value.ci95 is not None:
            out["published_ci95"] = value.ci95
    return out


def _add_standings(records: list[dict[str, Any]], done: dict[tuple[str, int, int], dict[str, Any]]) -> None:
    """Say of the rows of each task which is the best, and which do not differ significantly from it."""
    for task in dict.fromkeys((r["way"], r["shot"]) for r in records):
        together = [r for r in records if (r["way"], r["shot"]) == task]
        add_standings(together, [done.get(_place(r), {}).get("accuracies") for r in together])


def missing_everywhere(result: dict[str, Any]) -> str | None:
    """Why nothing at all could be run, or None."""
    ran = [r for r in result["records"] if "accuracy" in r]
    return None if ran else next(r["missing"] for r in result["records"])
