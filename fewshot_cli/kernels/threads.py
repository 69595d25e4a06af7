"""Spread a batch over threads, for compiled code that releases the interpreter's lock."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pydantic import Field

from fewshot_cli.contracts import Options

PARTS = 8  # of a large batch for each thread
MANY = 16  # times the problems that are worth a thread: what a part of a large batch has at least


class ThreadedOptions(Options):
    """Options of solvers that work on problems one by one."""

    workers: int = Field(
        0, ge=0, le=1024, description="threads over the batch; 0 means every core", json_schema_extra={"speed": True}
    )


def over_batch(run: Callable[[int, int], None], batch: int, workers: int, least: int = 16) -> None:
    """Call `run(begin, end)` on consecutive parts of range(batch), at most `workers` at a time (0: every core).

    A part has at least `least` problems, so that it is worth its thread. Of a large batch each thread takes part after
    part, so that one whose core other programs use holds up nobody.
    """
    workers = min(workers or _cores(), max(1, batch // least))
    if workers == 1:
        run(0, batch)
        return
    count = workers * max(1, min(PARTS, batch // (workers * MANY * least)))
    parts = deque((batch * i // count, batch * (i + 1) // count) for i in range(count))

    def work() -> None:
        while True:
            try:
                part = parts.popleft()
            except IndexError:  # none is left
                return
            try:
                run(*part)
            except BaseException:
                parts.clear()  # the others stop too
                raise

    pool = _pool.of(workers - 1)
    others = [pool.submit(work) for _ in range(workers - 1)]
    work()  # this thread takes its share instead of waiting
    for other in others:
        other.result()


def _cores() -> int:
    """The cores that this process may use, which a scheduler may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Pool:
    """Threads that are kept: to start them costs as much as a hundred small problems."""

    _size: int = 0
    _executor: ThreadPoolExecutor | None = None

    def of(self, threads: int) -> ThreadPoolExecutor:
        """At least so many threads."""
        if self._executor is None or self._size < threads:
            self._size, self._executor = threads, ThreadPoolExecutor(threads)
        return self._executor

    def forget(self) -> None:
        """Start afresh: a forked child has the pool but none of its threads, and would wait for them for ever."""
        self._size, self._executor = 0, None


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)
