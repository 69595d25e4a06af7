"""Who does the work of a sweep: this process, or jobs that submitit starts here or hands to Slurm."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewshot_cli.errors import DataError, FslError
from fewshot_cli.laboratory.plan import Cell
from fewshot_cli.laboratory.work import Outcome, embed, one_per_features, run_cells
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.device import resolve
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.run_folders import CELLS, JOBS
from fewshot_cli.runtime.runs import SUMMARY

MINUTES = 24 * 60  # of a job, where --slurm time= does not say otherwise


@dataclass(frozen=True)
class Launcher:
    """Jobs of submitit: `name` is `local` or `slurm`, `jobs` how many at a time; Slurm's own options by sbatch's names.

    `device` is that of the machines that run them.
    """

    name: str
    jobs: int
    options: dict[str, str]
    device: str

    @classmethod
    def of(
        cls, name: str | None, jobs: int, partition: str | None, options: Sequence[str], device: str
    ) -> "Launcher | None":
        """The launcher that options ask for, None for this process. Raises `FslError` where they do not go together."""
        if name is None and (partition or options):
            raise FslError("--partition and --slurm go with --launcher slurm; add it, or leave them out")
        if name is None:
            return None
        if name not in ("local", "slurm"):
            raise FslError(f"--launcher {name}: say local or slurm")
        if name == "local" and (partition or options):
            raise FslError("--launcher local starts processes on this machine; leave --partition and --slurm out")
        given = dict(_option(text) for text in options)
        return cls(name, jobs, given | ({"partition": partition} if partition else {}), device)


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise FslError(f"--slurm {text}: write it as key=value with an option of sbatch, such as gres=gpu:1")
    return key.removeprefix("--").replace("-", "_"), value


def evaluate(
    folder: Path, cells: Sequence[Cell], root: Path, processes: Processes, launcher: Launcher | None
) -> dict[str, Outcome]:
    """What became of every cell, by its folder's name, in the cells' order. Raises `FslError` where jobs cannot be
    started.
    """
    if launcher is None:
        return _in_order(cells, run_cells(folder, cells, root, processes))
    root, folder = root.resolve(), folder.resolve()
    needed = one_per_features(cells)
    say(f"embedding: {len(needed)} sets of features")
    _array(launcher, folder, _embed, [(place, share, root, launcher) for place, share in _shares(needed, launcher)])
    say(f"matching: {len(cells)} cells")
    given = [(place, folder, share, root, launcher) for place, share in _shares(cells, launcher)]
    outcomes: dict[str, Outcome] = {}
    for (_, _, share, _, _), job in zip(given, _array(launcher, folder, _match, given), strict=True):
        outcomes |= job if isinstance(job, dict) else _left(folder, share, root, processes, str(job))
    return _in_order(cells, outcomes)


def _left(folder: Path, cells: Sequence[Cell], root: Path, processes: Processes, why: str) -> dict[str, Outcome]:
    """What a job that died has left: the cells that it had finished, and `why` the others are not."""
    finished = [cell for cell in cells if (folder / CELLS / cell.folder / SUMMARY).exists()]
    return {cell.folder: Outcome(failed=why) for cell in cells} | run_cells(folder, finished, root, processes)


Place = tuple[int, int]  # a job's number, and how many jobs there are


def _shares(cells: Sequence[Cell], launcher: Launcher) -> list[tuple[Place, Sequence[Cell]]]:
    """The cells of each job, as many jobs as have any."""
    count = min(launcher.jobs, len(cells))
    return [((i, count), cells[i::count]) for i in range(count)]


def _in_order(cells: Sequence[Cell], outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    return {cell.folder: outcomes[cell.folder] for cell in cells}


def _processes(place: Place, launcher: Launcher) -> Processes:
    """This process of a job; jobs on one machine share out its GPUs and its cores."""
    device, (number, count) = resolve(launcher.device), place
    if launcher.name == "local" and device.type == "cuda" and launcher.device in ("auto", "cuda"):
        device = torch.device("cuda", number % torch.cuda.device_count())
    if launcher.name == "local":
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
        if hasattr(os, "sched_setaffinity"):  # solvers take every core that their process may use
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[number::count] or [cores[number % len(cores)]])
    return Processes(device)


def _embed(place: Place, cells: Sequence[Cell], root: Path, launcher: Launcher) -> None:
    processes = _processes(place, launcher)
    for cell in cells:
        embed(cell, root, processes)


def _match(place: Place, folder: Path, cells: Sequence[Cell], root: Path, launcher: Launcher) -> dict[str, Outcome]:
    return run_cells(folder, cells, root, _processes(place, launcher))


def _array(launcher: Launcher, folder: Path, work: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The result of every job of an array, or why it has none, as a sentence."""
    executor = _executor(launcher, folder / JOBS)
    try:
        jobs = executor.map_array(work, *zip(*arguments, strict=True))
    except Exception as error:  # of sbatch, in whatever words it has
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise FslError(f"--launcher {launcher.name}: the jobs could not be started: {last[0]}") from error
    say(f"jobs: {', '.join(job.job_id for job in jobs)}; their output is in {folder / JOBS}")
    return [_result(job) for job in jobs]


def _executor(launcher: Launcher, logs: Path) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise DataError(
            f"--launcher {launcher.name} needs submitit, which is not installed; pip install 'fewshot-cli[cluster]'"
        ) from error
    logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns of a Slurm without accounting at every look
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=launcher.name)
    except RuntimeError as error:  # where there is no sbatch
        raise FslError(
            "--launcher slurm: this machine has no sbatch; run it where Slurm is, or --launcher local"
        ) from error
    executor.update_parameters(timeout_min=MINUTES, name="fsl-sweep")
    if launcher.name == "slurm":
        options: dict[str, Any] = dict(launcher.options)
        named = {key: options.pop(key) for key in ("partition", "time") if key in options}
        executor.update_parameters(
            slurm_array_parallelism=launcher.jobs,
            slurm_additional_parameters=options,
            **{f"slurm_{key}": value for key, value in named.items()},
        )
    return executor


def _result(job: Any) -> Any:
    try:
        return job.result()
    except Exception as error:  # whatever ended the job
        last = str(error).strip().splitlines()
        return f"job {job.job_id} failed ({last[-1] if last else type(error).__name__}); see {job.paths.stderr}"
