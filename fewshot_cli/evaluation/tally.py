"""What a run answered, class by class: accuracies with their intervals, and which class was taken for which."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.records import RECORDS, finished_records
from fewshot_cli.evaluation.results import ClassAccuracy, Confused, Confusion, EpisodeRecord, PredictionRecord
from fewshot_cli.evaluation.stats import mean_ci95, share_ci95
from fewshot_cli.runtime.runs import Run

PREDICTIONS = "predictions.jsonl"
LEAST = 5  # episodes of a class, below which they say nothing of how far others lie


@dataclass(frozen=True)
class Tally:
    """The answers of a run: `counts` [C,C] of queries of a class (row) given a class (column), `offered` [C,C] of
    those for which that class was among the answers, and `accuracies` by class, with intervals.
    """

    classes: list[str]
    counts: np.ndarray
    offered: np.ndarray
    accuracies: list[ClassAccuracy]

    def confusion(self) -> Confusion:
        """The matrices as plain data."""
        return {"classes": self.classes, "counts": self.counts.tolist(), "offered": self.offered.tolist()}

    def confused(self) -> list[Confused]:
        """Pairs of classes of which one was taken for the other, the most frequent first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        pairs = [self._pair(int(i), int(j)) for i, j in np.argwhere(wrong)]
        return sorted(pairs, key=lambda pair: (-pair["share"], -pair["count"], pair["class"], pair["predicted"]))

    def pairs(self) -> list[Confused]:
        """Every pair of classes that could have been taken for each other, and each class with itself."""
        return [self._pair(int(i), int(j)) for i, j in np.argwhere(self.offered)]

    def _pair(self, i: int, j: int) -> Confused:
        count, offered = int(self.counts[i, j]), int(self.offered[i, j])
        share = 100 * count / offered
        return {
            "class": self.classes[i],
            "predicted": self.classes[j],
            "count": count,
            "offered": offered,
            "share": share,
        }


def tally(run: Path) -> Tally:
    """The answers that a run's directory keeps. Raises `DataError` where it keeps none."""
    if (run / PREDICTIONS).exists():
        try:
            return of_predictions(Run.records(run / PREDICTIONS))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{run / PREDICTIONS}: is damaged ({error}); evaluate again in another --run-dir"
            ) from error
    return of_episodes(finished_records(run), run)


def of_episodes(records: Sequence[EpisodeRecord], run: Path) -> Tally:
    """The answers in the records of episodes. Raises `DataError` for those of a version that kept none."""
    names = sorted({name for record in records for name in record["classes"]})
    place = {name: i for i, name in enumerate(names)}
    counts, offered = (np.zeros((len(names), len(names)), np.int64) for _ in range(2))
    shares: defaultdict[int, list[float]] = defaultdict(list)
    for record in records:
        if "predicted" not in record:
            raise DataError(
                f"{run / RECORDS}: is of an earlier version, which kept no answers; evaluate again in another --run-dir"
            )
        classes = np.array([place[name] for name in record["classes"]])
        given = np.array(record["predicted"]).reshape(len(classes), -1)  # [way, queries]
        offered[np.ix_(classes, classes)] += given.shape[1]
        for label, answers in enumerate(given):
            np.add.at(counts[classes[label]], classes[answers], 1)
            shares[int(classes[label])].append(100 * float((answers == label).mean()))
    accuracies = []
    for i, name in enumerate(names):
        mean, ci95 = mean_ci95(shares[i])
        ci95 = ci95 if len(shares[i]) >= LEAST else None
        accuracies.append(_accuracy(name, mean, ci95, counts[i], i, len(shares[i])))
    return Tally(names, counts, offered, accuracies)


def of_predictions(records: Iterable[PredictionRecord]) -> Tally:
    """The answers to single images, each of which may be of any of the classes."""
    answers = [(record["class"], record["top"][0]) for record in records]
    names = sorted({name for pair in answers for name in pair})
    place = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), np.int64)
    for truth, given in answers:
        counts[place[truth], place[given]] += 1
    offered = np.repeat(counts.sum(1, keepdims=True), len(names), 1)
    accuracies = [
        _accuracy(name, *share_ci95(int(counts[i, i]), int(counts[i].sum())), counts[i], i)
        for i, name in enumerate(names)
        if counts[i].any()
    ]
    return Tally(names, counts, offered, accuracies)


def _accuracy(
    name: str, mean: float, ci95: float | None, row: np.ndarray, own: int, episodes: int | None = None
) -> ClassAccuracy:
    made: ClassAccuracy = {
        "class": name,
        "accuracy": mean,
        "ci95": ci95,
        "correct": int(row[own]),
        "queries": int(row.sum()),
    }
    if episodes is not None:
        made["episodes"] = episodes
    return made
