"""The thread pool that solvers and heads share."""

import multiprocessing
import threading

import pytest

from fewshot_cli.kernels.threads import over_batch


def total(batch: int, workers: int, least: int = 1) -> list[tuple[int, int]]:
    parts: list[tuple[int, int]] = []
    over_batch(lambda begin, end: parts.append((begin, end)), batch, workers, least)
    return sorted(parts)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_parts_follow_each_other_and_cover_the_batch(workers):
    for batch in (1, 5, 15):
        parts = total(batch, workers)
        assert [place for begin, end in parts for place in range(begin, end)] == list(range(batch))
        assert len(parts) == min(workers, batch)


def test_threads_take_part_after_part_of_a_large_batch():
    assert len(total(1000, 2)) == 16 and len(total(100, 2)) == 6 and len(total(1000, 1)) == 1
    parts = total(999, 3)
    assert [place for begin, end in parts for place in range(begin, end)] == list(range(999))
    assert min(end - begin for begin, end in parts) >= 16


def test_a_thread_that_is_held_up_holds_up_no_other():
    done, released = [], threading.Event()

    def run(begin, end):
        if begin == 0:
            assert released.wait(60)
        done.append(begin)
        if len(done) == 15:  # all others, by the other thread
            released.set()

    over_batch(run, 1000, 2, 1)
    assert len(done) == 16 and done[-1] == 0


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


def test_what_a_part_raises_ends_the_others_and_is_not_swallowed():
    begun = []

    def broken(begin, end):
        begun.append(begin)
        raise IndexError("of the part itself")

    with pytest.raises(IndexError, match="of the part itself"):
        over_batch(broken, 10_000, 2, 1)
    assert len(begun) <= 2
