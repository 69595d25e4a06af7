"""Experiment loggers by name, for `--log`: each takes the record of every epoch, beside `log.jsonl`."""

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.results import TrainingRecord
from fewshot_cli.runtime.files import guarded, write_text
from fewshot_cli.runtime.render import csv_table
from fewshot_cli.runtime.runs import CONFIG, Run, read
from fewshot_cli.training.log import LOG

COLUMNS = ("epoch", "lr", "loss", "accuracy/training", "accuracy/validation", "iterations", "not_converged")


class Logger(Protocol):
    """What writes the epochs of a run somewhere."""

    def note(self, record: TrainingRecord) -> None:
        """Write an epoch's record."""

    def close(self) -> None:
        """The run has ended."""


def values(record: TrainingRecord) -> dict[str, float]:
    """The numbers of an epoch, by the names that loggers show."""
    found: dict[str, float] = {
        "loss": record["loss"],
        "lr": record["lr"],
        "accuracy/training": record["train_accuracy"],
    }
    if "validation" in record:
        found["accuracy/validation"] = record["validation"]["accuracy"]
    if "iterations" in record:
        found["iterations"] = record["iterations"]["mean"]
        found["not_converged"] = record.get("not_converged", 0)
    return found


class CSV:
    """`log.csv` in the run directory, a row for each epoch."""

    def __init__(self, run: Run, epochs_done: int) -> None:
        self.path = run.path / "log.csv"
        rows = [self._row(record) for record in run.lines(LOG)[:epochs_done]]
        write_text(self.path, csv_table(COLUMNS, rows))

    def _row(self, record: TrainingRecord) -> list[Any]:
        found = {"epoch": record["epoch"], **values(record)}
        return [found.get(column, "") for column in COLUMNS]

    def note(self, record: TrainingRecord) -> None:
        """Add the row of an epoch."""
        with guarded(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(",".join(map(str, self._row(record))) + "\n")

    def close(self) -> None:
        """Nothing is left to write."""


class TensorBoard:
    """Event files in `tensorboard/` of the run directory; what they hold of epochs that are repeated is hidden."""

    def __init__(self, run: Run, epochs_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=epochs_done + 1)

    def note(self, record: TrainingRecord) -> None:
        """Write an epoch's numbers as scalars."""
        for name, value in values(record).items():
            self.writer.add_scalar(name, value, record["epoch"])

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class WandB:
    """A run of Weights & Biases, in the project `fsl` unless WANDB_PROJECT names another; a resumed one goes on. With
    WANDB_MODE=offline it lies in `wandb/` of the run directory until `wandb sync`.
    """

    def __init__(self, run: Run, epochs_done: int) -> None:
        import wandb

        self.run = wandb.init(
            dir=str(run.path),
            project=os.environ.get("WANDB_PROJECT", "fsl"),
            name=run.path.name,
            id=run.mark,
            resume="allow",
            config=read(run.path / CONFIG)["recipe"],
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )

    def note(self, record: TrainingRecord) -> None:
        """Log an epoch's numbers at its step."""
        self.run.log(values(record), step=record["epoch"])

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


class MLflow:
    """A run of MLflow, in the experiment `fsl` unless MLFLOW_EXPERIMENT_NAME names another; a resumed one goes on. It
    is kept where MLFLOW_TRACKING_URI says, else in the folder `mlruns` of the run directory.
    """

    def __init__(self, run: Run, epochs_done: int) -> None:
        from mlflow.tracking import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:  # MLflow writes to folders only when it is told that this is meant
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (run.path / "mlruns").resolve().as_uri()
        self.client = MlflowClient(tracking_uri=place)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fsl")
        found = self.client.get_experiment_by_name(name)
        experiment = self.client.create_experiment(name) if found is None else found.experiment_id
        earlier = self.client.search_runs([experiment], f"tags.`fsl.run` = '{run.mark}'")
        if earlier:
            self.id = earlier[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return
        self.id = self.client.create_run(experiment, run_name=run.path.name, tags={"fsl.run": run.mark}).info.run_id
        for key, value in _flat(read(run.path / CONFIG)["recipe"]):
            self.client.log_param(self.id, key, str(value)[:500])

    def note(self, record: TrainingRecord) -> None:
        """Log an epoch's numbers at its step."""
        for name, value in values(record).items():
            self.client.log_metric(self.id, name, value, step=record["epoch"])

    def close(self) -> None:
        """The run has finished."""
        self.client.set_terminated(self.id)


LOGGERS: dict[str, tuple[str, Callable[[Run, int], Logger]]] = {  # with the module that each needs
    "csv": ("csv", CSV),
    "mlflow": ("mlflow", MLflow),
    "tensorboard": ("torch.utils.tensorboard", TensorBoard),
    "wandb": ("wandb", WandB),
}


def check_loggers(names: Iterable[str]) -> None:
    """Refuse loggers whose package is not installed. Raises `DataError`."""
    for name in names:
        try:
            importlib.import_module(LOGGERS[name][0])
        except ImportError as error:
            raise DataError(f"--log {name}: the package is not installed; pip install 'fewshot-cli[{name}]'") from error


def open_loggers(names: Sequence[str], run: Run, epochs_done: int) -> list[Logger]:
    """Loggers of a run of which some epochs are done. Raises `DataError` where one cannot begin."""
    opened: list[Logger] = []
    for name in dict.fromkeys(names):
        try:
            opened.append(LOGGERS[name][1](run, epochs_done))
        except DataError:
            raise
        except Exception as error:  # theirs are of many kinds: no login, no server, a folder of another version
            hint = "; log in with `wandb login`, or set WANDB_MODE=offline" if name == "wandb" else ""
            raise DataError(f"--log {name}: cannot begin ({str(error).partition(chr(10))[0]}){hint}") from error
    return opened


def _flat(data: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """The leaves of nested mappings by dotted path; what is empty is left out."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif data is not None:
        yield path, data
