"""The runs that a report is about, read from their directories."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.records import RECORDS, finished_records
from fewshot_cli.evaluation.results import EpisodeRecord, TrainingRecord
from fewshot_cli.runtime.runs import CONFIG, Run, read, summary_of
from fewshot_cli.training.log import LOG


@dataclass(frozen=True)
class Evaluated:
    """A finished run of `fsl eval`, with the records of its episodes, where it had any."""

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    records: list[EpisodeRecord]


@dataclass(frozen=True)
class Trained:
    """A run of `fsl pretrain` or `fsl metatrain`: the epochs of each phase, and its summary once it is finished."""

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    epochs: dict[str, list[TrainingRecord]]


def opened(path: Path) -> Evaluated | Trained:
    """The run in a directory. Raises `DataError` for what is none, or an evaluation that is not finished."""
    if not (path / CONFIG).is_file():
        raise DataError(f"{path}: holds no run (there is no {CONFIG}); give the folder that a command called its run")
    config = read(path / CONFIG)
    verb, summary = config.get("verb"), summary_of(path, config)
    if verb == "eval":
        if summary is None:
            raise DataError(f"{path}: is not finished; `fsl eval … --run-dir {path} --resume` continues it")
        records = finished_records(path) if (path / RECORDS).exists() else []
        return Evaluated(path, config, summary, records)
    if verb in ("pretrain", "metatrain"):
        return Trained(path, config, summary, _epochs(path))
    raise DataError(f"{path}: is a run of `fsl {verb}`; reports are of eval, pretrain and metatrain")


def _epochs(path: Path) -> dict[str, list[TrainingRecord]]:
    """The epochs of a training run, by phase; a run without phases has one, of no name."""
    logs = {"": path / LOG} if (path / LOG).exists() else {log.parent.name: log for log in _by_age(path)}
    if not logs:
        raise DataError(f"{path}: has no finished epoch yet; wait for the first, or continue it with --resume")
    try:
        return {name: Run.records(log) for name, log in logs.items()}
    except ValueError as error:
        raise DataError(f"{path}: its {LOG} is damaged ({error}); continue the run with --resume") from error


def _by_age(path: Path) -> list[Path]:
    return sorted(path.glob(f"*/{LOG}"), key=lambda log: (log.parent / CONFIG).stat().st_mtime)
