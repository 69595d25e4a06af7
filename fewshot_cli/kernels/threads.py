"""Spread a batch of problems over threads, for solvers whose compiled code releases the interpreter's lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from pydantic import Field

from fewshot_cli.contracts import Options


class ThreadedOptions(Options):
    """Options of solvers that work on problems one by one."""

    workers: int = Field(
        0, ge=0, le=1024, description="threads over the batch; 0 means every core", json_schema_extra={"speed": True}
    )


def over_batch(run: Callable[[int, int], None], batch: int, workers: int) -> None:
    """Call `run(start, stop)` on consecutive parts of range(batch), at most `workers` at a time (0: every core)."""
    workers = min(workers or os.cpu_count() or 1, max(1, batch // 16))
    if workers == 1:
        run(0, batch)
        return
    bounds = [batch * i // workers for i in range(workers + 1)]
    others = [_pool(workers - 1).submit(run, a, b) for a, b in zip(bounds[1:], bounds[2:], strict=False)]
    run(0, bounds[1])  # this thread takes its share instead of waiting
    for done in others:
        done.result()


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers)  # kept: starting threads costs as much as a hundred small problems
