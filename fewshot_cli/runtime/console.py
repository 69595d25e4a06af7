"""Results go to stdout, messages and progress to stderr, and either may be closed or lack characters."""

import errno
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.shown import shown, unsteered

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

stderr_lock = threading.RLock()  # whoever keeps C code from writing to stderr for a moment holds it
_notes: Counter[str] = Counter()
_silent_rank = 0  # of this process, where it is not the first of several and therefore prints nothing


def mute(rank: int) -> None:
    """Print no results and no messages from now on, since the first of the processes of this run does."""
    global _silent_rank
    _silent_rank = rank


def tolerate_encodings() -> None:
    """Let stdout and stderr write something for characters that their encoding does not have, whatever it is."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="fsl.substitute")


def complain(text: str, shared: bool = False) -> None:
    """An error message, from every process that has the error; one that all `share`, from the first process only."""
    if not _silent_rank:
        _write(f"fsl: {_bounded(text)}")
    elif not shared:
        _write(f"fsl: process {_silent_rank}: {_bounded(text)}")


def _bounded(text: str) -> str:
    """A message without what is longer than anyone reads: names and values may be of any length."""
    words = " ".join(word if len(word) <= 300 else f"{word[:200]}…{word[-80:]}" for word in text.split(" "))
    lines = words if len(words) <= 3000 else f"{words[:2500]} … {words[-400:]}"
    kept = lines.splitlines()
    return "\n".join([*kept[:18], f"… and {len(kept) - 18} more lines"] if len(kept) > 19 else kept)


def say(text: str) -> None:
    """A message on stderr; nothing when it is closed."""
    if not _silent_rank:
        _write(text)


def note(kind: str, text: str) -> None:
    """A note on stderr, of each kind the first three only: there may be one for every image."""
    _notes[kind] += 1
    if _notes[kind] <= 3:
        say(f"note: {text}" + ("; no more such notes follow" if _notes[kind] == 3 else ""))


def _write(text: str) -> None:
    if sys.stderr is None:  # print(file=None) would write to stdout
        return
    with stderr_lock, suppress(OSError, ValueError, AttributeError):  # a closed stderr must not stop the work
        print(unsteered(text), file=sys.stderr, flush=True)


def emit(text: str, kept: str = "") -> None:
    """A result on stdout. Raises `DataError` when it cannot be written there; `kept` says where the result still is."""
    if _silent_rank:
        return
    try:
        if sys.stdout is None:
            raise BrokenPipeError
        text = unsteered(text) if sys.stdout.isatty() else text
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        with suppress(OSError):  # keep the interpreter from complaining about the same pipe at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "stdout leads to a disk that is full" if full else "stdout is closed"
        where = f"; the result is kept in {kept}" if kept else "; run the command again with stdout open"
        raise DataError(f"{why}, so nothing could be printed{where}") from error


class Bar:
    """A progress bar of one task; `update(done, note)` sets how far it is and the running figure beside it."""

    def __init__(self, title: str, total: int | None) -> None:
        self._title, self._total = shown(title), total
        self._last = time.monotonic()
        self._live: tuple[Progress, TaskID] | None = None
        if sys.stderr is not None and sys.stderr.isatty() and not _silent_rank:
            self._live = _drawn(self._title, total)

    def update(self, done: int, note: str = "") -> None:
        """Set progress; off a terminal a line appears every 30 seconds."""
        if self._live is not None:
            drawn, task = self._live
            drawn.update(task, completed=done, note=note)
        elif time.monotonic() - self._last > 30:
            self._last = time.monotonic()
            say(f"{self._title}: {done}{f'/{self._total}' if self._total else ''} {note}".rstrip())

    def close(self) -> None:
        """Remove the bar."""
        if self._live is not None:
            self._live[0].stop()


def _drawn(title: str, total: int | None) -> "tuple[Progress, TaskID]":
    """A bar drawn by Rich, and its task."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    progress.start()
    return progress, progress.add_task(title, total=total, note="")


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Bar]:
    """A progress bar on stderr for the block."""
    bar = Bar(title, total)
    try:
        yield bar
    finally:
        bar.close()
