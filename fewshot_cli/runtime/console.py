"""Results go to stdout, messages and progress to stderr, and either may be closed or lack characters."""

import errno
import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.shown import unsteered

if TYPE_CHECKING:
    from fewshot_cli.runtime.bars import Bar

stderr_lock = threading.RLock()  # whoever keeps C code from writing to stderr for a moment holds it
_notes: Counter[str] = Counter()
_silent_rank = 0  # of this process, where it is not the first of several and therefore prints nothing


@dataclass
class Manners:
    """How this process speaks: `quiet` leaves warnings and errors, `verbose` adds details and the seconds since the
    start, `json_log` makes every message a line of JSON; `wide` shows every column of a table on a terminal too.
    """

    quiet: bool = False
    verbose: bool = False
    json_log: bool = False
    wide: bool = False
    start: float = 0.0


manners = Manners()


def begin() -> None:
    """Speak as at the start of a command, whatever an earlier one in this process was told."""
    vars(manners).update(vars(Manners(start=time.monotonic())))


def width() -> int | None:
    """Columns that a table on stdout may take; None where it need not fit: in a file, a pipe, or with `--wide`."""
    if manners.wide or sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def mute(rank: int) -> None:
    """Print no results and no messages from now on, since the first of the processes of this run does."""
    global _silent_rank
    _silent_rank = rank


def is_muted() -> bool:
    """Whether another process of this run prints."""
    return bool(_silent_rank)


def tolerate_encodings() -> None:
    """Let stdout and stderr write something for characters that their encoding does not have, whatever it is."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="fsl.substitute")


def complain(text: str, shared: bool = False) -> None:
    """An error message, from every process that has the error; one that all `share`, from the first process only."""
    if not _silent_rank:
        _write(f"fsl: {_bounded(text)}", "error")
    elif not shared:
        _write(f"fsl: process {_silent_rank}: {_bounded(text)}", "error")


def _bounded(text: str) -> str:
    """A message without what is longer than anyone reads: names and values may be of any length."""
    words = " ".join(word if len(word) <= 300 else f"{word[:200]}…{word[-80:]}" for word in text.split(" "))
    lines = words if len(words) <= 3000 else f"{words[:2500]} … {words[-400:]}"
    kept = lines.splitlines()
    return "\n".join([*kept[:18], f"… and {len(kept) - 18} more lines"] if len(kept) > 19 else kept)


def say(text: str) -> None:
    """A message on stderr; nothing when it is closed. `--quiet` leaves those that begin with `WARNING` or `fsl:`."""
    important = text.startswith(("WARNING", "fsl:"))
    if _silent_rank or (manners.quiet and not important):
        return
    level = "warning" if important else "note" if text.startswith("note:") else "info"
    since = f"[{time.monotonic() - manners.start:6.1f} s] " if manners.verbose and not manners.json_log else ""
    _write(since + text, level)


def detail(text: str) -> None:
    """A message that only `--verbose` asks for."""
    if manners.verbose:
        say(text)


def report(task: str, done: int, total: int | None, note: str, left: float | None) -> None:
    """How far a task is, as a line of JSON; `left` are the seconds that it will still take."""
    more = {"task": task, "done": done, "total": total, "note": note, "seconds_left": left and round(left, 1)}
    _write(task, "progress", more)


def note(kind: str, text: str) -> None:
    """A note on stderr, of each kind the first three only: there may be one for every image."""
    _notes[kind] += 1
    if _notes[kind] <= 3:
        say(f"note: {text}" + ("; no more such notes follow" if _notes[kind] == 3 else ""))


def _write(text: str, level: str, more: dict[str, object] | None = None) -> None:
    if sys.stderr is None:  # print(file=None) would write to stdout
        return
    if manners.json_log:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps({"time": at, "level": level, "message": text.removeprefix("fsl: "), **(more or {})})
    with stderr_lock, suppress(OSError, ValueError, AttributeError):  # a closed stderr must not stop the work
        _wipe()
        print(unsteered(text), file=sys.stderr, flush=True)


def emit(text: str, kept: str = "") -> None:
    """A result on stdout. Raises `DataError` when it cannot be written there; `kept` says where the result still is."""
    if _silent_rank:
        return
    idle()
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


def progress(title: str, total: int | None, unit: str = "", times: float = 1) -> "AbstractContextManager[Bar]":
    """A progress bar on stderr for a block, as `bars.progress` says."""
    from fewshot_cli.runtime import bars

    return bars.progress(title, total, unit, times)


# What is being done, while nothing else moves: a line on a terminal, of which at most one is there, with its seconds.

PATIENCE = 0.5  # seconds before the line appears
_activity: tuple[str, float] | None = None  # what is being done, and since when
_drawn = False  # whether the line is on the terminal now
_watcher: threading.Thread | None = None
_hidden = 0  # bars that are on the terminal in its place


def doing(text: str) -> None:
    """Say what is being done until the next message, bar or result: on a terminal, when it takes a while.

    Only in a command: in a user's own program nobody would take the line away.
    """
    global _activity, _watcher
    detail(f"{text} …")
    silent = _silent_rank or manners.quiet or manners.json_log or not manners.start
    if silent or sys.stderr is None or not sys.stderr.isatty():
        return
    with stderr_lock:
        _activity = (text, time.monotonic())
    if _watcher is None or not _watcher.is_alive():
        _watcher = threading.Thread(target=_watch, daemon=True)
        _watcher.start()


def idle() -> None:
    """Take the line of `doing` away."""
    global _activity
    with stderr_lock, suppress(OSError, ValueError, AttributeError):
        _activity = None
        _wipe()


def hide(more: int) -> None:
    """Count a bar that comes (1) or goes (-1): while one is there, it moves in place of the line."""
    global _hidden, _activity
    with stderr_lock, suppress(OSError, ValueError, AttributeError):
        _hidden += more
        _activity = _activity and (_activity[0], time.monotonic())
        _wipe()


def _watch() -> None:
    while _activity is not None:
        time.sleep(PATIENCE)
        with stderr_lock, suppress(OSError, ValueError, AttributeError):
            _draw(time.monotonic())


def _draw(now: float) -> None:
    """Draw the line, if it has something to say."""
    global _drawn
    if _activity is None or _hidden or now - _activity[1] < PATIENCE:
        return
    line = unsteered(f"{_activity[0]} … {now - _activity[1]:.0f} s")[: shutil.get_terminal_size().columns - 1]
    sys.stderr.write(f"\r\x1b[2K{line}")
    sys.stderr.flush()
    _drawn = True


def _wipe() -> None:
    global _drawn
    if _drawn:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
    _drawn = False
