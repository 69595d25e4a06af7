"""The report as one HTML file that loads nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from fewshot_cli.errors import DataError, FslError
from fewshot_cli.evaluation.pairs import accuracies, of_run
from fewshot_cli.evaluation.sentences import counted
from fewshot_cli.evaluation.stats import paired
from fewshot_cli.report import charts
from fewshot_cli.report.opened import Evaluated, Trained, opened
from fewshot_cli.report.views import View, evaluated, trained
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import write_text
from fewshot_cli.runtime.render import plus_minus
from fewshot_cli.runtime.run_folders import told_apart
from fewshot_cli.version import __version__

LIMIT = 5_000_000  # bytes of a page
QUERIES = 6  # hardest queries of a run with their images, where there are few runs


@dataclass(frozen=True)
class Compared:
    """A run beside the first: its accuracy, and the paired difference or why there is none."""

    name: str
    accuracy: str
    difference: str


@dataclass(frozen=True)
class Comparison:
    """All evaluations of a page, each less the first."""

    rows: list[Compared]
    accuracies: charts.Chart
    differences: charts.Chart | None


def report(paths: Sequence[Path], out: Path, root: Path, device: torch.device) -> None:
    """Write the report of these runs. Raises `DataError` for a folder that holds none, `FslError` where even without
    images the page is larger than it may be.
    """
    runs = [opened(path) for path in paths]
    names = told_apart(paths)
    comparison = _comparison([(n, r) for n, r in zip(names, runs, strict=True) if isinstance(r, Evaluated)])
    for images in (max(1, min(QUERIES, 4 * QUERIES // len(runs))), 0):
        views = [_view(run, name, root, device, images) for run, name in zip(runs, names, strict=True)]
        text = render(views, comparison)
        if len(text.encode()) <= LIMIT:
            return write_text(out, text)
        say(f"note: with images the page would be larger than {LIMIT // 10**6} MB, so it has none")
    raise FslError(f"{out}: {len(runs)} runs make a page of more than {LIMIT // 10**6} MB; report fewer at once")


def render(views: Sequence[View], comparison: Comparison | None) -> str:
    """The page. Everything that is not of the templates is escaped."""
    environment = Environment(
        loader=PackageLoader("fewshot_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"plus_minus": plus_minus, "place": _place}
    return environment.get_template("report.html.j2").render(views=views, comparison=comparison, version=__version__)


def _view(run: Evaluated | Trained, name: str, root: Path, device: torch.device, images: int) -> View:
    return evaluated(run, name, root, device, images) if isinstance(run, Evaluated) else trained(run, name)


def _comparison(runs: Sequence[tuple[str, Evaluated]]) -> Comparison | None:
    """The evaluations side by side, None of fewer than two."""
    if len(runs) < 2:
        return None
    first, rows, differences = runs[0][1], [], []
    for name, run in runs:
        accuracy = f"{plus_minus(run.summary['accuracy'], run.summary['ci95'])} %"
        if run is first:
            rows.append(Compared(name, accuracy, "the first, which the others are compared with"))
            continue
        try:
            a, b = accuracies(of_run(run.path), of_run(first.path))
        except DataError as error:
            rows.append(Compared(name, accuracy, f"cannot be paired: {error}"))
            continue
        mean, ci95 = paired(a, b)
        differences.append((name, mean, ci95))
        rows.append(Compared(name, accuracy, f"{plus_minus(mean, ci95, '+')} over {counted(len(a), 'paired episode')}"))
    values = [(name, run.summary["accuracy"], run.summary["ci95"]) for name, run in runs]
    drawn = (
        charts.intervals("Difference to the first run", "percentage points", differences, True) if differences else None
    )
    return Comparison(rows, charts.intervals("Accuracy of each run", "accuracy, %", values), drawn)


def _place(x: float, y: float) -> str:
    """Where a place (shares of an image) lies, in words."""
    row = ("top", "middle", "bottom")[min(2, int(3 * y))]
    column = ("left", "centre", "right")[min(2, int(3 * x))]
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"
