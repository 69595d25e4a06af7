"""The runs folder looked through: which runs there are, in which state, and how one is removed."""

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from fewshot_cli.errors import DataError
from fewshot_cli.runtime import runs
from fewshot_cli.runtime.files import guarded, held_by, hold
from fewshot_cli.runtime.roots import RUNS

CELLS, MEMORY, JOBS = "cells", "memory.json", "jobs"  # of a sweep: its runs, what one needed, output of its jobs
TRIALS, STUDY = "trials", "study.sqlite3"  # of a search
State = Literal["finished", "unfinished", "in use", "damaged"]

# What verbs write into a run's folder: only a folder that holds nothing else is removed.
_FILES = {
    *(runs.CONFIG, runs.SUMMARY, runs.SECONDS, runs.TIMES),
    *("episodes.jsonl", "predictions.jsonl", "rows.jsonl", "log.jsonl", "log.csv"),
    *("state.pt", "weights.safetensors", "weights.safetensors.json", "training.png"),
    *("classifier.safetensors", "classifier.safetensors.json"),
    *(MEMORY, STUDY),
}
_FOLDERS = {"tensorboard", "wandb", "mlruns", CELLS, TRIALS, JOBS}  # of loggers and sweeps, whatever they hold


@dataclass(frozen=True)
class RunFolder:
    """One run's folder as it was when it was looked at.

    `kind` is the verb that made it, `recipe` the name of its recipe, `state` whether it is finished, `holder` who uses
    it, `changed` the time of the newest file, `size` its bytes with those of the runs inside it. `accuracy` is in per
    cent, `ci95` the half-width of its interval; both are None where the run has not come to one.
    """

    path: Path
    kind: str
    recipe: str
    state: State
    holder: str | None
    changed: datetime
    size: int
    accuracy: float | None
    ci95: float | None
    config: dict[str, Any]
    summary: dict[str, Any]


def find(base: Path = RUNS) -> list[RunFolder]:
    """All runs at and below a folder, the newest first; the phases of a run belong to it and are not listed.

    Raises `DataError` where a folder cannot be read.
    """
    with guarded(base):
        return sorted(map(look_at, _below(base)), key=lambda run: run.changed, reverse=True)


def _below(folder: Path) -> Iterator[Path]:
    """The folders of runs, without those inside other runs and without hidden ones."""
    if (folder / runs.CONFIG).is_file() and is_run(folder):
        yield folder
    elif folder.is_dir():
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
                yield from _below(inner)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, damaged or not: other programs call their files config.json too."""
    try:
        config = runs.read(folder / runs.CONFIG)
    except DataError:
        return folder.parent.parent.name == RUNS.name  # where only runs are
    return {"verb", "key", "identity"} <= config.keys()


def look_at(folder: Path) -> RunFolder:
    """The run in a folder for which `is_run` holds."""
    damaged, config, summary = False, {}, {}
    try:
        config = runs.read(folder / runs.CONFIG)
        summary = runs.read(folder / runs.SUMMARY) if (folder / runs.SUMMARY).exists() else {}
    except DataError:
        damaged = True
    holder = held_by(folder)
    state: State = "in use" if holder else "damaged" if damaged else "finished" if summary else "unfinished"
    sizes, times = _measured(folder)
    accuracy, ci95 = _accuracy(summary)
    return RunFolder(
        path=folder,
        kind=str(config.get("verb", folder.parent.name)),
        recipe=str((config.get("recipe") or {}).get("name", folder.name)),
        state=state,
        holder=holder,
        changed=datetime.fromtimestamp(max(times, default=0)).astimezone(),
        size=sum(sizes),
        accuracy=accuracy,
        ci95=ci95,
        config=config,
        summary=summary,
    )


def _measured(folder: Path) -> tuple[list[int], list[float]]:
    """Sizes and times of all files below a folder, without following links."""
    sizes, times = [], []
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(place, name))
            except OSError:  # it is gone meanwhile: the run goes on
                continue
            sizes.append(status.st_size)
            times.append(status.st_mtime)
    return sizes, times


def _accuracy(summary: dict[str, Any]) -> tuple[float | None, float | None]:
    """Accuracy and interval of an evaluation, or of the best checkpoint of a training run."""
    result = summary if "accuracy" in summary else summary.get("best") or {}
    return result.get("accuracy"), result.get("ci95")


def named(text: str, base: Path = RUNS) -> RunFolder:
    """The run that a path means, which may leave out the runs folder. Raises `DataError` when there is none."""
    there = [folder for folder in (Path(text), base / text) if folder.exists()]
    for folder in there:
        if is_run(folder):
            return look_at(folder)
    known = "`fsl runs ls` shows those there are"
    if there:
        raise DataError(f"{there[0]}: is not the folder of a run (it has no {runs.CONFIG} of one); {known}")
    raise DataError(f"{text}: there is no such run; {known}")


def newest(recipe: str, kind: str | None = None, unfinished: bool = False, base: Path = RUNS) -> RunFolder:
    """The newest finished run of a recipe, or of any state; of a kind, or of any but a sweep, which is many runs.

    Raises `DataError` when there is none.
    """
    name = Path(recipe).name.removesuffix(".yaml")
    of_it = [
        run for run in find(base) if run.recipe == name and (run.kind == kind or (kind is None and run.kind != "sweep"))
    ]
    done = [run for run in of_it if unfinished or run.state == "finished"]
    if done:
        return done[0]
    what = f"{kind} run" if kind else "run"
    if of_it:
        raise DataError(
            f"{base}: recipe {name} has no finished {what}, but {of_it[0].path} ({of_it[0].state}); continue it with "
            "--resume, or add --unfinished"
        )
    raise DataError(f"{base}: there is no {what} of recipe {name}; `fsl runs ls` shows those there are")


def folder_of(given: Path, kind: str | None = None, base: Path = RUNS) -> Path:
    """The folder of a run that a path means, or the name of a recipe: its newest finished run. Raises `DataError`."""
    if given.exists() or len(given.parts) > 1:
        return given
    return newest(str(given), kind, base=base).path


def told_apart(paths: Sequence[Path]) -> list[str]:
    """What runs are called: the last parts of their paths, as many as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    raise AssertionError("whole paths tell them apart")


def refuse_removal(run: RunFolder) -> None:
    """Raise `DataError` for a run that is in use, is reached by a link, or whose folder holds what no run writes."""
    if run.holder:
        raise DataError(f"{run.path}: is in use by {run.holder}; wait for it, or stop it first")
    if run.path.is_symlink():
        raise DataError(f"{run.path}: is a link; give the folder that it leads to, {run.path.resolve()}")
    others = [str(path.relative_to(run.path)) for path in _foreign(run.path)]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise DataError(
            f"{run.path}: also holds what no run writes ({', '.join(others[:3])}{more}); move that away first, or "
            "remove the folder yourself"
        )


def _foreign(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            if path.name not in _FOLDERS:
                yield from _foreign(path) if is_run(path) else [path]
        elif path.name not in _FILES and not path.name.endswith(".part"):
            yield path


def remove(run: RunFolder) -> None:
    """Remove a run's folder as `refuse_removal` lets it. It loses its name first, so that an interrupted removal leaves
    no half run that looks like a whole one.
    """
    release = hold(run.path)
    try:
        refuse_removal(run)
        with guarded(run.path):
            doomed = run.path.parent / f".{run.path.name}.{secrets.token_hex(4)}.part"
            run.path.rename(doomed)
            shutil.rmtree(doomed)
    finally:
        release()
