"""stdout is data, stderr is talk: sentences, progress with a running figure, and output that survives a closed pipe."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fewshot_cli.errors import DataError

_muted = 0


def mute(rank: int) -> None:
    """Say and emit nothing from now on: the first process of the same run talks."""
    global _muted
    _muted = rank


def complain(text: str, shared: bool = False) -> None:
    """A fault, told by every process that has it, but one that all of them `share` by the first alone."""
    global _muted
    rank, _muted = _muted, 0
    if not (rank and shared):
        say(f"fsl: process {rank}: {text}" if rank else f"fsl: {text}")
    _muted = rank


def say(text: str) -> None:
    """A line of talk on stderr."""
    if sys.stderr is None or _muted:  # print(file=None) would write to stdout
        return
    with suppress(OSError, ValueError, AttributeError):  # a closed stderr must not stop the work
        print(text, file=sys.stderr, flush=True)


def emit(text: str, kept: str = "") -> None:
    """Data on stdout. Raises `DataError` when stdout is closed; `kept` says where the result still is."""
    if _muted:
        return
    try:
        if sys.stdout is None:
            raise BrokenPipeError
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except (OSError, ValueError) as fault:
        with suppress(OSError):  # keep the interpreter from complaining about the same pipe at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        where = f"; the result is kept in {kept}" if kept else "; run the command again with stdout open"
        raise DataError(f"stdout is closed, so nothing could be printed{where}") from fault


class Bar:
    """A progress bar of one task; `update(done, text)` sets how far it is and the running figure beside it."""

    def __init__(self, title: str, total: int | None) -> None:
        self._title, self._total, self._live, self._task = title, total, None, None
        self._last = time.monotonic()
        if sys.stderr is not None and sys.stderr.isatty() and not _muted:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._live = Progress(*columns, console=Console(stderr=True), transient=True)
            self._live.start()
            self._task = self._live.add_task(title, total=total, note="")

    def update(self, done: int, note: str = "") -> None:
        """Set progress; off a terminal a line appears every 30 seconds."""
        if self._live is not None:
            self._live.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._last > 30:
            self._last = time.monotonic()
            say(f"{self._title}: {done}{f'/{self._total}' if self._total else ''} {note}".rstrip())

    def close(self) -> None:
        """Remove the bar."""
        if self._live is not None:
            self._live.stop()


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Bar]:
    """A progress bar on stderr for the block."""
    bar = Bar(title, total)
    try:
        yield bar
    finally:
        bar.close()
