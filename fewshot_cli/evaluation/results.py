"""What commands return and write: the types of all results and records.

These are the JSON of `--format json`, of `summary.json` and of the JSONL files in a run directory, key by key. Keys are
public: one that is renamed stays readable by its old name. Accuracies and intervals are in per cent, times in seconds.
"""

from typing import Any, NotRequired, TypedDict


class EpisodeRecord(TypedDict):
    """A line of `episodes.jsonl`."""

    episode: int  # number of the episode
    classes: list[str]  # its classes, in the order of their labels
    correct: int  # queries given the right class
    queries: int  # all queries
    accuracy: float  # 100 · correct / queries
    not_converged: int  # transport problems that the solver gave up on
    predicted: NotRequired[list[int]]  # place in `classes` given to each query, class by class; not in earlier versions
    problems: NotRequired[int]  # transport problems that were solved; not in earlier versions
    run: NotRequired[str]  # the beginning of its run's key, so that no other run's record passes for it


# a line of `predictions.jsonl`, under protocol `classification`: the image's place in the split, its class, and the
# likeliest classes, best first
PredictionRecord = TypedDict("PredictionRecord", {"picture": int, "class": str, "top": list[str]})


# how often the queries of a class were given the right one, with its interval: over the `episodes` that hold the class,
# or over images, where there are no episodes
ClassAccuracy = TypedDict(
    "ClassAccuracy",
    {
        "class": str,
        "accuracy": float,
        "ci95": float | None,
        "correct": int,
        "queries": int,
        "episodes": NotRequired[int],
    },
)

# how many queries of a class were given another, of those for which that one was among the answers
Confused = TypedDict("Confused", {"class": str, "predicted": str, "count": int, "offered": int, "share": float})


class Confusion(TypedDict):
    """Which class was taken for which: rows are the classes of the queries, columns those they were given."""

    classes: list[str]  # of the rows and the columns
    counts: list[list[int]]  # queries
    offered: list[list[int]]  # queries for which the column's class was among the answers


class Hashes(TypedDict):
    """SHA-256 of what a result was made from."""

    weights: str  # of the weights file
    data: str  # of the split of the store


class Judged(TypedDict):
    """Fields of every result that `--check` can judge."""

    accuracy: float  # mean
    ci95: (
        float | None
    )  # half-width of its 95 % interval, of the kind that `interval` names; of one episode there is none
    hashes: Hashes
    expect: NotRequired[dict[str, Any] | None]  # with --check: the recipe's entry for this data, None without one
    passed: NotRequired[bool]  # with --check and an entry: whether the accuracy lies within or above the tolerance


class Evaluation(Judged):
    """Fields that all evaluations have."""

    format: int  # version of this layout
    recipe: str  # name of the recipe
    dataset: str  # name of the store, or the folder of queries
    solver: str | None  # name of the solver, None where no transport problem is posed
    interval: str  # kind of the interval
    not_converged: int  # transport problems that the solver gave up on
    seconds: dict[str, float]  # embedding, matching, solver, total, as far as they apply
    seed: int  # of the episodes
    weights: str  # where the weights come from
    saw: list[str]  # data that the weights were trained on, "unknown" where nothing says so
    external: list[str]  # those of them that are not the recipe's dataset
    versions: dict[str, str]  # of what decides a result
    device: str  # where the backbone worked
    run_dir: str  # folder of the run


class EpisodesResult(Evaluation):
    """`fsl eval` of a recipe on few-shot episodes."""

    split: str  # of the store
    backbone: str
    extractor: str
    head: str
    classes: int  # that episodes are drawn from
    way: int
    shot: int
    query: int  # queries per class
    episodes: int
    problems: int | None  # transport problems that were solved; None where episodes of an earlier version do not say
    processes: int  # that shared the work


class ClassificationResult(Evaluation):
    """`fsl eval` of a recipe of protocol `classification`."""

    protocol: str  # "classification"
    split: str  # of the store
    backbone: str
    classifier: str
    classes: int
    pictures: int  # images
    top5: float  # share of images whose class is among the five likeliest
    top5_ci95: float
    iterations: dict[str, float] | None  # of the classifier's solver: mean and spread over problems
    processes: int  # that shared the work


class ClassifierResult(Evaluation):
    """`fsl eval --classifier` on a folder of queries."""

    head: str
    way: int  # classes of the classifier
    shot: int  # support images per class, rounded
    episodes: int  # 1
    pictures: int  # images


class FinetuneResult(TypedDict):
    """`fsl finetune-sfc`."""

    classes: list[str]
    pictures: int  # support images
    solver: str
    support_accuracy: float  # on the support images themselves
    not_converged: int
    classifier: str  # the file that was written
    sha256: str  # its hash


class Validation(TypedDict):
    """The result of a validation during training."""

    accuracy: float
    ci95: float | None
    epoch: NotRequired[int]  # of the best validation: the epoch after which it was made


class TrainingRecord(TypedDict):
    """A line of `log.jsonl`."""

    epoch: int  # counted from 1
    lr: float  # learning rate
    loss: float  # mean over the epoch's steps
    train_accuracy: float  # on training batches
    validation: NotRequired[Validation]  # where the epoch was validated
    iterations: NotRequired[dict[str, float]]  # of the solver: mean and spread over problems
    not_converged: NotRequired[int]  # transport problems that the solver gave up on


class TrainingResult(TypedDict):
    """`fsl pretrain` and `fsl metatrain`."""

    epochs: int  # that were run
    best: Validation | dict[str, Any]  # the validation whose weights were kept
    weights: str  # the file
    sha256: str  # its hash
    phases: NotRequired[dict[str, Any]]  # the phases' own results, by name
