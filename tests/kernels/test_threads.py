"""The thread pool that solvers and heads share."""

import multiprocessing

import pytest

from fewshot_cli.kernels.threads import over_batch


def total(batch: int, workers: int, least: int = 1) -> list[tuple[int, int]]:
    parts: list[tuple[int, int]] = []
    over_batch(lambda begin, end: parts.append((begin, end)), batch, workers, least)
    return sorted(parts)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_parts_follow_each_other_and_cover_the_batch(workers):
    for batch in (1, 5, 64):
        parts = total(batch, workers)
        assert [place for begin, end in parts for place in range(begin, end)] == list(range(batch))
        assert len(parts) == min(workers, batch)


def test_a_part_is_worth_its_thread():
    assert total(31, 4, least=16) == [(0, 31)] and len(total(32, 4, least=16)) == 2


def test_what_a_part_raises_reaches_the_caller():
    def broken(begin, end):
        if begin:
            raise ValueError(f"from {begin}")

    with pytest.raises(ValueError, match="from 4"):
        over_batch(broken, 8, 2, 1)


def _in_child(results) -> None:
    results.put(total(64, 3))


def test_a_forked_child_starts_threads_of_its_own():
    """The parent's pool has threads; a child that is forked has none of them, and waited for them for ever."""
    assert len(total(64, 3)) == 3
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_child, args=(results,))
    child.start()
    try:
        assert results.get(timeout=60) == total(64, 3)
    finally:
        child.kill()
        child.join()
