"""Progress of one task on stderr: a bar with rate and time left on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fewshot_cli.runtime import console
from fewshot_cli.runtime.shown import shown

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID

EVERY, EVERY_LOGGED = 30.0, 2.0  # seconds between two lines: of text, of JSON


class Bar:
    """A progress bar of one task; `update(done, note)` sets how far it is and the running figure beside it.

    `unit` is what its rate counts in a second, and `times` how many of them each step of it is.
    """

    def __init__(self, title: str, total: int | None, unit: str = "", times: float = 1) -> None:
        self._title, self._total, self._unit, self._times = shown(title), total, unit, times
        self._begin = self._last = time.monotonic()
        self._first: int | None = None
        self._live: tuple[Progress, TaskID] | None = None
        said = console.manners
        self._silent = sys.stderr is None or console.is_muted() or said.quiet
        if not self._silent and not said.json_log and sys.stderr.isatty():
            console.hide(1)
            self._live = _drawn(self._title, total, unit, times)

    def update(self, done: int, note: str = "") -> None:
        """Set progress; off a terminal a line appears every 30 seconds, in JSON every 2."""
        if self._live is not None:
            drawn, task = self._live
            if self._first is None:  # what an earlier run has done is no part of the rate
                drawn.reset(task, completed=done)
            drawn.update(task, completed=done, note=note)
            self._first = done
        elif not self._silent:
            self._tell(done, note)

    def _tell(self, done: int, note: str) -> None:
        now = time.monotonic()
        logged = console.manners.json_log
        if self._first is None:
            self._first = done
        if now - self._last <= (EVERY_LOGGED if logged else EVERY):
            return
        self._last, gained = now, done - self._first
        left = (self._total - done) * (now - self._begin) / gained if self._total and gained > 0 else None
        left = None if left is None or left < 0 else left
        if logged:
            return console.report(self._title, done, self._total, note, left)
        words = [f"{self._title}: {done}{f'/{self._total}' if self._total else ''}", note]
        words += [f"({_clock(left)} left)"] if left is not None else []
        return console.say(" ".join(word for word in words if word))

    def close(self) -> None:
        """Remove the bar."""
        if self._live is not None:
            self._live[0].stop()
            console.hide(-1)
            self._live = None


def _clock(seconds: float) -> str:
    """Seconds as minutes or hours: 0:07, 12:40, 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def pace(speed: float | None, unit: str, times: float) -> str:
    """What a task does in a second, or how long one step takes; empty where that is not known yet."""
    if not speed or not unit:
        return ""
    rate = speed * times
    return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"


def _drawn(title: str, total: int | None, unit: str, times: float) -> "tuple[Progress, TaskID]":
    """A bar drawn by Rich, and its task."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Times(ProgressColumn):
        """Time since the start, so that it always moves, then rate and time left."""

        def render(self, task: "Task") -> Text:
            words = [_clock(task.elapsed or 0)]
            words += [f"{_clock(task.time_remaining)} left"] if task.time_remaining else []
            words += [rate] if (rate := pace(task.speed, unit, times)) else []
            return Text(", ".join(words), no_wrap=True, overflow="ellipsis")

    count = "{task.completed:.0f}/{task.total:.0f}" if total else "{task.completed:.0f}"
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TextColumn(count),
        TextColumn("{task.fields[note]}", markup=False),
        Times(),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=300,  # one step may take minutes
    )
    progress.start()
    return progress, progress.add_task(title, total=total, note="")


@contextmanager
def progress(title: str, total: int | None, unit: str = "", times: float = 1) -> Iterator[Bar]:
    """A progress bar on stderr for the block."""
    bar = Bar(title, total, unit, times)
    try:
        yield bar
    finally:
        bar.close()
