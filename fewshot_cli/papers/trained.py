"""A paper's table whose rows are networks to train: medians over seeds, costs, times in turns, iterations of the
solver.
"""

import shlex
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

from scipy import stats

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone, build_classifier
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.prepare import open_dataset
from fewshot_cli.errors import DataError, FslError, RecipeError
from fewshot_cli.evaluation.classification import evaluate_classes
from fewshot_cli.evaluation.comparisons import add_standings
from fewshot_cli.papers.catalog import chosen_rows
from fewshot_cli.papers.request import Request
from fewshot_cli.papers.schema import MeasureColumn, TrainedRow, TrainedTable
from fewshot_cli.profiling import costs
from fewshot_cli.profiling.steps import beside
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import write_json
from fewshot_cli.runtime.runs import Run, fingerprint, read, stage, versions
from fewshot_cli.training.log import LOG
from fewshot_cli.training.pretrain import pretrain

INTERVAL = "Student's t over seeds, paired"
TIMES, ROUNDS = "times.json", 9


def row_sets(row: TrainedRow, request: Request) -> list[str]:
    """The `--set` options of a row; the request's solver is that of the rows which need one."""
    options = [*row.set, *request.sets]
    recipe = load_recipe(row.recipe, options)
    needs = registry.classifier(recipe.pretrain.classifier.name).needs_solver
    other = request.solver is not None and request.solver != recipe.classifier_solver.name
    return [*options, f"solver={request.solver}"] if other and needs else options


def run(table: TrainedTable, request: Request, run_dir: Path) -> dict[str, Any]:
    """Train and evaluate what is not done yet below `run_dir`, seed by seed, and return the table.

    Tables that are run in the same folder share the rows they have in common. A record holds row, column, a value for
    each seed, their median, the mean difference to the first row of its group with the interval over seeds, parameters
    and multiply-adds, training and test time over that row's, the solver's iterations, what is printed, and the
    command; a row that cannot run has `missing`. Raises `RecipeError` when no row's name is meant.
    """
    rows = chosen_rows(table.name, table.rows, request.rows)
    if all(column.measure.endswith("_seconds") for column in table.columns):
        request = replace(request, seeds=request.seeds[:1])  # times are measured once
    values: dict[tuple[str, int], list[float]] = {}
    missing: dict[str, str] = {}
    for seed in request.seeds:
        for row in rows:
            try:
                if row.name not in missing:
                    for place, value in enumerate(_values(table, row, request, seed, run_dir)):
                        values.setdefault((row.name, place), []).append(value)
            except FslError as error:
                if isinstance(error, RecipeError) and request.sets:
                    raise  # an option that was typed
                missing[row.name] = str(error)
    records = [
        {
            "row": row.name,
            "group": row.group,
            "column": column.name,
            **(
                {"missing": missing[row.name]}
                if row.name in missing
                else _record(table, row, place, rows, values, request, run_dir)
            ),
        }
        for row in rows
        for place, column in enumerate(table.columns)
    ]
    accuracies = [c.name for c in table.columns if c.measure != "iterations" and not c.measure.endswith("_seconds")]
    for group, column in {(r["group"], r["column"]): None for r in records if r["column"] in accuracies}:
        together = [r for r in records if (r["group"], r["column"]) == (group, column)]
        add_standings(together, [r.get("values") for r in together])
    result = {
        "format": 1,
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "interval": INTERVAL,
        "seeds": list(request.seeds),
        "records": records,
        "device": str(request.processes.device),
        "versions": versions(),
        "run_dir": str(run_dir),
    }
    if len(missing) < len(rows):
        write_json(run_dir / f"{table.name}.json", result)
    return result


def _place(row: TrainedRow, seed: int, run_dir: Path) -> Path:
    words = "".join(c if c.isalnum() else "_" for c in row.name).strip("_")
    data = load_recipe(row.recipe).store
    return run_dir / data / words / f"seed_{seed}"


def _values(table: TrainedTable, row: TrainedRow, request: Request, seed: int, run_dir: Path) -> list[float]:
    """What each column measures for one seed."""
    words, place = row_sets(row, request), _place(row, seed, run_dir)
    one = load_recipe(row.recipe, words, seed=seed)
    if all(column.measure.endswith("_seconds") for column in table.columns):
        store = open_dataset(one.dataset.name, one.store, request.root)
        seconds = _times(table, row, request, run_dir)[row is not _baseline(table, row)]
        counts = {
            "training": len(store.split("train")) // one.pretrain.batch,
            "test": len(store.split("test")) / one.pretrain.batch,
        }
        kinds = [column.measure.removesuffix("_seconds") for column in table.columns]
        return [seconds[kind] * counts[kind] for kind in kinds]
    made = stage(
        request.processes,
        place / "pretrain",
        lambda path, again: pretrain(one, request.root, path, again, request.processes),
    )

    def measured(column: MeasureColumn) -> float:
        if column.measure == "iterations":
            iterations = _iterations([place])
            if not iterations:
                raise DataError(f"solver {one.classifier_solver.name} counts no iterations; take sinkhorn")
            return iterations["mean"]
        tested = load_recipe(row.recipe, [*words, *column.set], seed=seed)
        summary = stage(
            request.processes,
            place / f"eval_{tested.store}",
            lambda path, again: evaluate_classes(
                tested, request.root, path, again, request.processes, Path(made["weights"])
            ),
        )
        return summary["top5"] if column.measure == "top5" else summary["accuracy"]

    return [measured(column) for column in table.columns]


def _record(
    table: TrainedTable,
    row: TrainedRow,
    place: int,
    rows: list[TrainedRow],
    values: dict[tuple[str, int], list[float]],
    request: Request,
    run_dir: Path,
) -> dict[str, Any]:
    results = values[row.name, place]
    words = row_sets(row, request)
    out: dict[str, Any] = {
        "measure": table.columns[place].measure,
        "values": results,
        "value": median(results),
        **_costs(load_recipe(row.recipe, words), request),
    }
    base = _baseline(table, row)
    other = values.get((base.name, place))
    if base is not row and other and len(other) == len(results):
        apart = [a - b for a, b in zip(results, other, strict=True)]
        out["difference"] = mean(apart)
        if len(apart) > 1:
            out["difference_ci95"] = float(stats.t.ppf(0.975, len(apart) - 1) * stats.sem(apart))
    if base is not row:
        theirs, ours = _times(table, row, request, run_dir)
        out |= {f"{kind}_over_first": ours[kind] / theirs[kind] for kind in ours}
    places = [_place(row, seed, run_dir) for seed in request.seeds]
    if all((path / "pretrain" / LOG).exists() for path in places) and (iterations := _iterations(places)):
        out["iterations"] = iterations
    if row.published is not None:
        out["published"] = row.published[place]
    out |= {
        f"printed_{kind}": value
        for kind, value in (("parameters", row.parameters), ("multiply_adds", row.multiply_adds))
        if value is not None
    }
    sets = [word for s in words for word in ("--set", s)]
    out["command"] = shlex.join(["fsl", "pretrain", "--recipe", row.recipe, *sets])
    return out


def _baseline(table: TrainedTable, row: TrainedRow) -> TrainedRow:
    return next(r for r in table.rows if r.group == row.group)


def _costs(one: Recipe, request: Request) -> dict[str, float]:
    """Parameters and multiply-adds in millions, as the paper counts them."""
    backbone, classes = (
        build_backbone(one),
        len(open_dataset(one.dataset.name, one.store, request.root).split("train").classes),
    )
    classifier = build_classifier(
        one.pretrain.classifier, backbone.channels, classes, one.classifier_solver, request.processes.device
    )
    count = costs.count(backbone, one.image.size)
    products = count.multiply_adds_bn + classifier.multiply_adds(count.positions)
    parameters = count.parameters + sum(p.numel() for p in classifier.parameters())
    return {"parameters": parameters / 1e6, "multiply_adds": products / 1e6}


def _times(table: TrainedTable, row: TrainedRow, request: Request, run_dir: Path) -> list[dict[str, float]]:
    """Seconds of a training step and of a test pass, of the first row of its group and of the row (of the next row, for
    the first one), measured in turns, once.
    """
    base = _baseline(table, row)
    beside_it = (
        row if row is not base else next(r for r in (*table.rows, row) if r.group == row.group and r is not base)
    )
    pair = [load_recipe(r.recipe, row_sets(r, request)) for r in (base, beside_it)]
    name = fingerprint([str(request.processes.device), *(one.identity() for one in pair)])
    path = run_dir / TIMES
    known = read(path) if path.exists() else {}
    if name not in known:
        say(f"timing {row.name}")
        classes = len(open_dataset(pair[0].dataset.name, pair[0].store, request.root).split("train").classes)
        known[name] = beside(pair, classes, request.processes, ROUNDS)
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    return known[name]


def _iterations(places: list[Path]) -> dict[str, Any]:
    """Iterations of a problem over training: the mean, the standard deviation of the epochs' means and that within an
    epoch, and each epoch's mean over the seeds; empty without a solver.
    """
    logs = [Run.records(place / "pretrain" / LOG) for place in places]
    if not all("iterations" in record for log in logs for record in log):
        return {}
    epochs = [[record["iterations"]["mean"] for record in log] for log in logs]
    flat = [x for log in epochs for x in log]
    if not any(flat):  # a solver that does not count
        return {}
    within = [record["iterations"]["spread"] for log in logs for record in log]
    return {
        "mean": mean(flat),
        "spread": pstdev(flat),
        "spread_in_epoch": mean(within),
        "epochs": [mean(x) for x in zip(*epochs, strict=True)],
    }
