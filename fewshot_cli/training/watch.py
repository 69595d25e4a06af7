"""Whoever started a training may watch it: told of each epoch that is kept, it may stop the training by raising."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fewshot_cli.evaluation.results import TrainingRecord

Watcher = Callable[[TrainingRecord], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Every epoch of trainings in the block is told to `watcher`; what it raises ends the training, which can be
    resumed.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def tell(record: TrainingRecord) -> None:
    """Tell the record of an epoch, if anybody watches."""
    if (watcher := _watcher.get()) is not None:
        watcher(record)
