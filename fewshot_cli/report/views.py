"""What the page says of each run, made from its directory and, where they are at hand, its images and its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Matches
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.evaluation.again import answered, model_of, recipe_of, split_of
from fewshot_cli.evaluation.model import episodes_of
from fewshot_cli.evaluation.results import ClassAccuracy, EpisodeRecord
from fewshot_cli.evaluation.sentences import measured
from fewshot_cli.evaluation.tally import PREDICTIONS, Tally, of_episodes, tally
from fewshot_cli.report import charts
from fewshot_cli.report.charts import Chart
from fewshot_cli.report.examples import Example, Examples, thumbnail
from fewshot_cli.report.opened import Evaluated, Trained
from fewshot_cli.report.queries import of_class, queries_of, spread
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.render import as_yaml, plus_minus
from fewshot_cli.runtime.runs import CONFIG, Run

MATRIX = 40  # classes of a confusion matrix that can be taken in
ROWS = 40  # classes in a chart
CLASSES, OF_CLASS = 3, 5  # hardest and easiest classes, and images of each


@dataclass(frozen=True)
class ClassImages:
    """A class and some of its images: each with its data URI and what is said of it."""

    accuracy: ClassAccuracy
    images: list[tuple[str, str]]


@dataclass
class View:
    """A run on the page. `notes` say what could not be shown, and why."""

    name: str
    path: Path
    kind: str
    headline: str
    facts: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    recipe: str
    charts: list[Chart] = field(default_factory=list)
    tally: Tally | None = None
    class_chart: Chart | None = None
    matrix: bool = False
    solver: list[tuple[str, str]] = field(default_factory=list)
    hardest_classes: list[ClassImages] = field(default_factory=list)
    easiest_classes: list[ClassImages] = field(default_factory=list)
    hardest: list[Example] = field(default_factory=list)
    easiest: list[Example] = field(default_factory=list)
    matches: bool = False
    notes: list[str] = field(default_factory=list)


def evaluated(run: Evaluated, name: str, root: Path, device: torch.device, images: int) -> View:
    """An evaluation, with so many of its hardest queries' images, and half as many of the easiest."""
    summary = run.summary
    view = View(
        name,
        run.path,
        "evaluation",
        measured(summary),
        _facts(summary),
        _versions(run.config),
        _recipe(run.config),
    )
    view.solver = _solver(summary)
    accuracies = [record["accuracy"] for record in run.records]
    if len(accuracies) > 1:
        view.charts = [
            charts.histogram(accuracies, run.records[0]["queries"], summary["accuracy"]),
            charts.running_mean(accuracies),
        ]
    try:
        if run.records:
            _look_into_episodes(view, run, root, device, images)
        elif (run.path / PREDICTIONS).exists():
            _look_into_images(view, run, root, images)
        else:
            view.notes.append("The run is of an earlier version, which kept no answers, so classes are not shown.")
    except FslError as error:
        view.notes.append(f"Not everything could be shown: {error}.")
    for note in view.notes:
        say(f"note: {run.path}: {note}")
    return view


def trained(run: Trained, name: str) -> View:
    """A training run: its curves, and the best validation."""
    best = (run.summary or {}).get("best") or {}
    done = sum(map(len, run.epochs.values()))
    headline = f"{done} epochs"
    if "accuracy" in best:
        headline = f"validation {plus_minus(best['accuracy'], best['ci95'])} % after epoch {best['epoch']}, the best"
    view = View(
        name,
        run.path,
        f"{run.config['verb']}",
        headline,
        [("epochs", str(done)), *_named(run.summary or {}, {"weights": "weights", "sha256": "SHA-256 of the weights"})],
        _versions(run.config),
        _recipe(run.config),
    )
    if run.summary is None:
        view.notes.append("The training is not finished: the curves end where it is.")
    for phase, epochs in run.epochs.items():
        of = f", phase {phase}" if phase else ""
        view.charts.append(charts.curves(f"Loss{of}", "cross-entropy", {"": [(r["epoch"], r["loss"]) for r in epochs]}))
        validated = [(r["epoch"], r["validation"]["accuracy"]) for r in epochs if "validation" in r]
        both = {"training batches": [(r["epoch"], r["train_accuracy"]) for r in epochs], "validation": validated}
        view.charts.append(charts.curves(f"Accuracy{of}", "accuracy, %", both))
        view.charts.append(
            charts.curves(f"Learning rate{of}", "rate", {"": [(r["epoch"], r["lr"]) for r in epochs]}, from_zero=True)
        )
        solved = [(float(r["epoch"]), r["iterations"]["mean"]) for r in epochs if "iterations" in r]
        if solved:
            view.charts.append(charts.curves(f"Solver{of}", "iterations per problem", {"": solved}, from_zero=True))
            failed = sum(r.get("not_converged", 0) for r in epochs)
            view.solver.append((f"not converged{of}", f"{failed} problems"))
    return view


def _look_into_episodes(view: View, run: Evaluated, root: Path, device: torch.device, images: int) -> None:
    """Fill in classes, queries and what matched, as far as the run's images and weights are at hand."""
    records, model = run.records, None
    old = any("predicted" not in record for record in records)
    if not old:
        _count(view, of_episodes(records, run.path))
    recipe = recipe_of(run.config, run.path / CONFIG)
    split = split_of(recipe, run.config, root)
    try:
        model = model_of(recipe, run.config, run.summary, root, device)
        records = answered(model, records)
    except DataError as error:
        if old:
            raise
        view.notes.append(f"What matched is not shown: {error}.")
    if old:
        _count(view, of_episodes(records, run.path))
    if images:
        examples = Examples(recipe, split, episodes_of(recipe, split, root), model)
        view.matches = model is not None and isinstance(model.head, Matches)
        if model is not None and not view.matches:
            view.notes.append(
                f"Head {recipe.head.name} has no flow between two images, so queries are shown without one."
            )
        _show(view, records, examples, images)


def _show(view: View, records: list[EpisodeRecord], examples: Examples, images: int) -> None:
    queries = queries_of(records, examples.sampler, examples.split)
    view.hardest = [examples.example(query) for query in spread(queries, images) if query.wrong]
    view.easiest = [examples.example(query) for query in spread(queries[::-1], max(1, images // 2)) if not query.wrong]
    place = {name: label for label, name in enumerate(examples.split.classes)}
    for hardest, into in ((True, view.hardest_classes), (False, view.easiest_classes)):
        for row in _extreme(view.tally, hardest):
            own = of_class(queries, place[row["class"]], OF_CLASS, hardest)
            words = [f"right {len(q.answers) - len(q.wrong)} of {len(q.answers)} times" for q in own]
            into.append(ClassImages(row, [(examples.thumbnail(q.image), w) for q, w in zip(own, words, strict=True)]))


def _look_into_images(view: View, run: Evaluated, root: Path, images: int) -> None:
    """Fill in classes, and images of the hardest ones that were given another class."""
    _count(view, tally(run.path))
    if run.summary.get("protocol") != "classification" or not images:
        return  # a folder of one's own, which may have changed since
    recipe: Recipe = recipe_of(run.config, run.path / CONFIG)
    split, answers = split_of(recipe, run.config, root), Run.records(run.path / PREDICTIONS)
    for row in _extreme(view.tally, hardest=True):
        wrong = [a for a in answers if a["class"] == row["class"] != a["top"][0]][:OF_CLASS]
        shown = [(thumbnail(recipe, split, a["picture"]), f"taken for {a['top'][0]}") for a in wrong]
        view.hardest_classes.append(ClassImages(row, shown))


def _count(view: View, answers: Tally) -> None:
    view.tally, view.matrix = answers, len(answers.classes) <= MATRIX
    rows = _sorted(answers)
    if len(rows) > ROWS:
        rows = [*rows[: ROWS // 2], *rows[-ROWS // 2 :]]
    values = [(row["class"], row["accuracy"], row["ci95"]) for row in rows]
    title = "Accuracy of each class" if len(rows) == len(answers.accuracies) else "The hardest and the easiest classes"
    view.class_chart = charts.intervals(title, "accuracy, %", values)


def _sorted(answers: Tally) -> list[ClassAccuracy]:
    return sorted(answers.accuracies, key=lambda row: (row["accuracy"], row["class"]))


def _extreme(answers: Tally | None, hardest: bool) -> list[ClassAccuracy]:
    """The hardest or the easiest classes; none is both."""
    rows = _sorted(answers) if answers else []
    count = min(CLASSES, len(rows) // 2)
    return rows[:count] if hardest else rows[::-1][:count]


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("interval", summary["interval"])]
    if "way" in summary and "query" in summary:
        task = f"{summary['way']}-way {summary['shot']}-shot, {summary['query']} queries per class"
        facts.append(("task", task))
    if "top5" in summary:
        facts.append(("top-5 accuracy", f"{plus_minus(summary['top5'], summary['top5_ci95'])} %"))
    dataset = summary["dataset"] + (f", {summary['split']} split" if "split" in summary else "")
    facts.append(("dataset", dataset))
    named = ("recipe", "backbone", "extractor", "head", "classifier", "solver", "weights", "seed", "device")
    facts += _named(summary, {key: key for key in named})
    if summary.get("external"):
        facts.append(("external data", ", ".join(summary["external"])))
    if summary.get("expect"):
        expect, verdict = summary["expect"], "met" if summary.get("passed") else "missed"
        facts.append(("gate", f"{verdict}: {expect['accuracy']} ± {expect['tolerance']} expected ({expect['source']})"))
    return facts + [(f"SHA-256 of the {key}", value) for key, value in summary["hashes"].items()]


def _named(summary: Mapping[str, Any], names: dict[str, str]) -> list[tuple[str, str]]:
    return [(label, str(summary[key])) for key, label in names.items() if summary.get(key) is not None]


def _versions(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [*config.get("versions", {}).items(), *config.get("parts", {}).items()]


def _recipe(config: Mapping[str, Any]) -> str:
    return as_yaml({key: value for key, value in config["recipe"].items() if key != "name"})


def _solver(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the solver had to do; nothing where no problem was posed."""
    if summary["solver"] is None:
        return []
    rows = [("solver", summary["solver"])]
    problems, seconds = summary.get("problems"), summary.get("seconds") or {}
    if problems is not None:
        rows.append(("problems", f"{problems:,}"))
    rows.append(("not converged", str(summary["not_converged"])))
    rows += [(f"seconds, {key}", f"{value:.2f}") for key, value in seconds.items()]
    if problems and seconds.get("solver"):
        rows.append(("problems per second in the solver", f"{problems / seconds['solver']:,.0f}"))
    return rows
