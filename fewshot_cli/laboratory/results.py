"""What a sweep found: a record for each method on each task, compared with the baseline, the best, and all others."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fewshot_cli.evaluation.comparisons import CORRECTED, Ranks, add_standings, differences, ranks
from fewshot_cli.evaluation.stats import INTERVAL, mean_ci95
from fewshot_cli.laboratory.plan import Cell, command_words, varied_tasks
from fewshot_cli.laboratory.work import Outcome, records_of
from fewshot_cli.runtime.run_folders import CELLS
from fewshot_cli.runtime.runs import versions

Over = Literal["episodes", "tasks"]
Episode = tuple[int, int, tuple[str, ...]]  # seed, number, classes: equal ones are the same episode
TIMES = ("embedding", "matching", "solver", "total")


@dataclass
class _Row:
    """A method on a task, with its episodes of all seeds."""

    cells: list[Cell]
    accuracies: dict[Episode, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.cells[0].label

    @property
    def task(self) -> tuple[tuple[str, Any], ...]:
        return self.cells[0].task


def sweep_result(
    folder: Path, cells: Sequence[Cell], outcomes: Mapping[str, Outcome], baseline: str, over: Over = "episodes"
) -> dict[str, Any]:
    """The result of a sweep as plain data.

    A record holds method and task by column, accuracy and interval over the episodes of all seeds, difference to the
    baseline on the episodes that both have, with its corrected interval and p-value, `standing` (`best` of its task, or
    `tied` with it), times, memory and the command of each run; or `failed`, the reason.
    """
    rows: dict[Any, _Row] = {}
    for cell in cells:
        rows.setdefault((cell.method, cell.task), _Row([])).cells.append(cell)
    for row in rows.values():
        _fill(row, folder, outcomes)
    tasks = list(dict.fromkeys(row.task for row in rows.values()))
    ordered = sorted(rows.values(), key=lambda row: tasks.index(row.task))
    done = [row for row in ordered if row.accuracies]
    _add_differences(done, baseline)
    _add_standings(done)
    found = _ranked(done, baseline, over)
    for row in done:
        if found and row.label in found[0]:
            row.record["rank"] = found[1].mean[found[0].index(row.label)]
    first = cells[0]
    return {
        "format": 1,
        "columns": [name for name, _ in first.method] + varied_tasks(cells),
        "common": {key: value for key, value in first.task if key not in varied_tasks(cells)},
        "episodes": sorted({row.record["episodes"] for row in done}),
        "seeds": sorted({cell.seed for cell in cells}),
        "baseline": baseline,
        "interval": INTERVAL,
        "corrected": CORRECTED,
        "records": [row.record for row in ordered],
        "ranks": _rank_data(found, over),
        "versions": versions(),
        "run_dir": str(folder),
    }


def _fill(row: _Row, folder: Path, outcomes: Mapping[str, Outcome]) -> None:
    """The row's record, and its episodes if all of its cells were evaluated."""
    row.record.update(dict(row.cells[0].method) | dict(row.task))
    made = [outcomes[cell.folder] for cell in row.cells]
    if (failed := next((one.failed for one in made if one.summary is None), None)) is not None:
        row.record["failed"] = failed
        return
    for cell in row.cells:
        for r in records_of(folder, cell):
            row.accuracies[cell.seed, r["episode"], tuple(r["classes"])] = r["accuracy"]
    summaries = [one.summary or {} for one in made]
    accuracy, ci95 = mean_ci95(list(row.accuracies.values()))
    seconds = [summary["seconds"] for summary in summaries]
    row.record |= {
        "accuracy": accuracy,
        "ci95": ci95,
        "episodes": len(row.accuracies),
        "not_converged": sum(summary["not_converged"] for summary in summaries),
        "external": sorted({name for summary in summaries for name in summary["external"]}),
        "seconds": {key: sum(one[key] for one in seconds) for key in TIMES},
        "memory": max((one.memory for one in made if one.memory is not None), default=None),
        "run_dirs": [str(folder / CELLS / cell.folder) for cell in row.cells],
        "commands": [command(cell) for cell in row.cells],
    }


def command(cell: Cell) -> str:
    """The command line that evaluates a cell alone."""
    return shlex.join(command_words("eval", cell.base, cell.sets))


def _common(rows: Sequence[_Row]) -> list[list[float]]:
    """The accuracies of every row on the episodes that all of them have."""
    episodes = [episode for episode in rows[0].accuracies if all(episode in row.accuracies for row in rows)]
    return [[row.accuracies[episode] for episode in episodes] for row in rows]


def _add_differences(rows: Sequence[_Row], baseline: str) -> None:
    """Every row's difference to the baseline of its task, where that was evaluated."""
    bases = {row.task: row for row in rows if row.label == baseline}
    compared = [row for row in rows if row.label != baseline and row.task in bases]
    both = [_common([row, bases[row.task]]) for row in compared]
    paired = [(row, values) for row, values in zip(compared, both, strict=True) if values[0]]
    for (row, _), found in zip(paired, differences([(a, b) for _, (a, b) in paired]), strict=True):
        row.record |= {"difference": found.mean, "difference_ci95": found.ci95, "p": found.p}


def _add_standings(rows: Sequence[_Row]) -> None:
    for task in dict.fromkeys(row.task for row in rows):
        together = [row for row in rows if row.task == task]
        add_standings([row.record for row in together], _common(together))


def _ranked(rows: Sequence[_Row], baseline: str, over: Over) -> tuple[list[str], Ranks] | None:
    """The methods that were evaluated on all of the baseline's tasks, and their ranks; None for fewer than two."""
    tasks = [row.task for row in rows if row.label == baseline]
    by_place = {(row.label, row.task): row for row in rows}
    labels = dict.fromkeys(row.label for row in rows)
    methods = [label for label in labels if tasks and all((label, task) in by_place for task in tasks)]
    if len(methods) < 2:
        return None
    scores: list[list[float]] = [[] for _ in methods]
    for task in tasks:
        for kept, values in zip(scores, _common([by_place[label, task] for label in methods]), strict=True):
            kept += values if over == "episodes" else [sum(values) / len(values)] if values else []
    return (methods, ranks(scores)) if scores[0] else None


def _rank_data(found: tuple[list[str], Ranks] | None, over: Over) -> dict[str, Any] | None:
    if found is None:
        return None
    methods, ranked = found
    return {
        "over": over,
        "blocks": ranked.blocks,
        "mean": dict(zip(methods, ranked.mean, strict=True)),
        "friedman": None if ranked.statistic is None else {"statistic": ranked.statistic, "p": ranked.p},
        "critical_difference": ranked.critical_difference,
    }
