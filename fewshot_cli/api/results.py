"""Results as Python objects: they print as a sentence, show themselves in a notebook, and become tables of pandas."""

import html
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_cli.errors import FslError
from fewshot_cli.evaluation.results import EpisodeRecord
from fewshot_cli.evaluation.sentences import difference, sentence
from fewshot_cli.runtime.render import plus_minus


@dataclass(frozen=True)
class Result:
    """An accuracy with everything that decides it.

    `summary` is what `fsl eval --format json` prints, key by key; `episodes` are its records, one for each episode;
    `run_dir` is the folder that holds the run, None where none was asked for.
    """

    summary: Mapping[str, Any]
    episodes: Sequence[EpisodeRecord]
    run_dir: Path | None = None

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the episodes, in per cent."""
        return self.summary["accuracy"]

    @property
    def ci95(self) -> float | None:
        """Half-width of its 95 % interval, in per cent; None for a single episode."""
        return self.summary["ci95"]

    def to_pandas(self) -> Any:
        """The episodes as a `pandas.DataFrame`, a row for each. Raises `FslError` without pandas."""
        return _frame([{key: value for key, value in record.items() if key != "run"} for record in self.episodes])

    def __str__(self) -> str:
        s = self.summary
        told = f"; external data: {', '.join(s['external'])}" if s.get("external") else ""
        failed = f"; {s['not_converged']} problems not converged" if s["not_converged"] else ""
        return f"{sentence(s)}, head {s['head']} on {s['backbone']}{told}{failed}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        keys = (
            "recipe",
            "dataset",
            "split",
            "backbone",
            "head",
            "solver",
            "way",
            "shot",
            "episodes",
            "seed",
            "weights",
        )
        rows = [(key, self.summary.get(key)) for key in keys if self.summary.get(key) is not None]
        return _table([("accuracy", f"{plus_minus(self.accuracy, self.ci95)} %"), *rows])


@dataclass(frozen=True)
class Comparison:
    """Accuracy of one result minus another's on the episodes that both have, in per cent, with the half-width of the
    paired 95 % interval (None for a single episode).
    """

    first: float
    second: float
    difference: float
    ci95: float | None
    episodes: int

    def __str__(self) -> str:
        return difference(f"{self.first:.2f}", f"{self.second:.2f}", self.difference, self.ci95, self.episodes)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [("first", f"{self.first:.2f} %"), ("second", f"{self.second:.2f} %")]
        return _table([*rows, ("difference", plus_minus(self.difference, self.ci95, "+")), ("episodes", self.episodes)])


@dataclass(frozen=True)
class TrainingRun:
    """A finished training: `weights` is the file to evaluate, `summary` what the verb prints, `log` a record for each
    epoch (see `fewshot_cli.evaluation.results.TrainingRecord`), `run_dir` the folder that holds the run.
    """

    weights: Path
    summary: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    run_dir: Path

    @property
    def best(self) -> Mapping[str, Any]:
        """The validation whose weights were kept: accuracy in per cent, ci95, epoch."""
        return self.summary["best"]

    def to_pandas(self) -> Any:
        """The log as a `pandas.DataFrame`, a row for each epoch. Raises `FslError` without pandas."""
        return _frame([_flat(record) for record in self.log])

    def __str__(self) -> str:
        best = self.best
        reached = f"; best validation {plus_minus(best['accuracy'], best['ci95'])} %" if "accuracy" in best else ""
        return f"{self.weights}: {self.summary['epochs']} epochs{reached}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _table([("weights", self.weights), ("epochs", self.summary["epochs"]), *self.best.items()])


@dataclass(frozen=True)
class Prediction:
    """An image's label: `label` is None where it is none of the classes; `score` and `scores` are the softmax of the
    logits, `probability` the calibrated one (None where classes have one example each), `familiarity` how much it looks
    like the classes at all, `labels` a set that holds the right one as often as was asked (None where nothing was).
    """

    image: str
    label: str | None
    score: float
    scores: Mapping[str, float]
    probability: float | None = None
    familiarity: float | None = None
    labels: tuple[str, ...] | None = None


class Predictions(list[Prediction]):
    """Labels of images, in the order of the images."""

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for each image. Raises `FslError` without pandas."""
        keys = ("image", "label", "score", "probability", "familiarity")
        return _frame([{**{key: getattr(one, key) for key in keys}, **one.scores} for one in self])

    def _repr_html_(self) -> str:
        rows = [
            (p.image, p.label or "none of these", f"{p.score if p.probability is None else p.probability:.2f}")
            for p in self
        ]
        what = "probability" if any(p.probability is not None for p in self) else "score"
        return _table([("image", "label", what), *rows])


def _frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise FslError("to_pandas needs pandas; pip install pandas") from error
    return pandas.DataFrame.from_records(rows)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in record.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _table(rows: Iterable[Sequence[Any]]) -> str:
    lines = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
