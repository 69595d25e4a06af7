"""The cells of a sweep evaluated one after another; what one cannot do stops no other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_cli.config.parts import build_extractor
from fewshot_cli.config.stages import deciding
from fewshot_cli.errors import FslError
from fewshot_cli.evaluation.episodes import evaluate_episodes
from fewshot_cli.evaluation.model import Model, Shared
from fewshot_cli.evaluation.records import finished_records
from fewshot_cli.evaluation.results import EpisodeRecord
from fewshot_cli.laboratory.memory import with_peak
from fewshot_cli.laboratory.plan import Cell
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import write_json
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.render import plus_minus
from fewshot_cli.runtime.run_folders import CELLS, MEMORY
from fewshot_cli.runtime.runs import CONFIG, SUMMARY, fingerprint, read


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its summary and the peak bytes of its evaluation, or why there is none."""

    summary: dict[str, Any] | None = None
    memory: int | None = None
    failed: str | None = None


def run_cells(
    folder: Path, cells: Sequence[Cell], root: Path, processes: Processes, done: int = 0, of: int = 0
) -> dict[str, Outcome]:
    """Evaluate cells, each in its folder below the sweep's, and return what became of each by its folder's name.

    What is there already is kept and continued. `done` and `of` say how far the sweep is. Those with the same features
    come one after another, so that these are read once.
    """
    shared, outcomes = Shared(), dict[str, Outcome]()
    for cell in sorted(cells, key=_place(cells)):
        outcomes[cell.folder] = outcome = _run(folder / CELLS / cell.folder, cell, root, processes, shared)
        say(f"{done + len(outcomes)}/{of or len(cells)} {cell.folder}: {_sentence(outcome)}")
    return outcomes


def _run(path: Path, cell: Cell, root: Path, processes: Processes, shared: Shared) -> Outcome:
    def evaluate() -> Any:
        resume = (path / CONFIG).exists()
        return evaluate_episodes(cell.recipe, root, path, resume, processes, shared=shared)

    measured, done = (path / MEMORY).exists(), (path / SUMMARY).exists()
    try:
        summary, peak = with_peak(processes.device, evaluate)
        if not measured:  # a peak around nothing but reading the result says nothing
            write_json(path / MEMORY, {"peak": None if done else peak})
        return Outcome(summary, read(path / MEMORY)["peak"])
    except FslError as error:
        return Outcome(failed=str(error))
    except (MemoryError, RuntimeError, ValueError) as error:  # of PyTorch or a part, such as a GPU that is full
        said = str(error).partition("\n")[0] or type(error).__name__
        return Outcome(failed=f"{type(error).__name__}: {said}")


def _sentence(outcome: Outcome) -> str:
    if outcome.summary is None:
        return f"failed: {outcome.failed}"
    accuracy = plus_minus(outcome.summary["accuracy"], outcome.summary["ci95"])
    return f"{accuracy} % ({outcome.summary['seconds']['total']:.1f} s)"


def records_of(folder: Path, cell: Cell) -> list[EpisodeRecord]:
    """The episodes of a finished cell."""
    return finished_records(folder / CELLS / cell.folder)


def embed(cell: Cell, root: Path, processes: Processes) -> None:
    """Compute the features that a cell needs and keep them in the cache; nothing when it cannot be evaluated, which is
    told with the cell.
    """
    try:
        Model.open(cell.recipe, root, processes, with_dataset=True).features()
    except FslError:
        return


def one_per_features(cells: Sequence[Cell]) -> list[Cell]:
    """For each set of features that cells need, the first cell that needs it."""
    return list({_features(cell): cell for cell in reversed(cells)}.values())[::-1]


def _features(cell: Cell) -> str:
    """What decides the features that a cell needs, as a hash: at least as fine as the cache's keys."""
    recipe = cell.recipe
    drawn = recipe.seed if build_extractor(recipe).random else None
    made_of = [recipe.name, recipe.weights, deciding(recipe, "features"), drawn]
    return fingerprint([*made_of, recipe.model_dump(mode="json")["dataset"], recipe.eval.split])


def _place(cells: Sequence[Cell]) -> Any:
    """Where a cell comes: the features in the order of their first cells, then seeds, then as they are."""
    keys = {cell.folder: _features(cell) for cell in cells}
    first = {key: number for number, key in reversed(list(enumerate(keys.values())))}
    return lambda cell: (first[keys[cell.folder]], cell.seed)
