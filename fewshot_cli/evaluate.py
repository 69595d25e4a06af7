"""Episodes → one record each → a summary."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.contracts import Head
from fewshot_cli.episodes import Sampler, gather
from fewshot_cli.errors import DataError
from fewshot_cli.recipe import EpisodeSpec

BUDGET = 64 << 20  # elements of cost in one solver call, so that a batch of episodes fits the memory


def episodes_per_call(spec: EpisodeSpec, positions: int) -> int:
    """How many episodes of cost matrices [way·query·way, positions, positions] go into one call."""
    return max(1, min(64, BUDGET // 4 // max(1, spec.way * spec.way * spec.query * positions * positions)))


@torch.no_grad()
def run_batch(head: Head, features: Tensor, sampler: Sampler, numbers: range,
              name: Callable[[int], str] = str) -> tuple[list[dict[str, Any]], float]:  # fmt: skip
    """Records of the episodes `numbers` and the seconds spent inside the solver; features live where the head works.

    A record holds the episode's number, its classes, the correct answers, the accuracy in per cent and the problems a
    solver gave up on; nothing that depends on how episodes were batched. Raises `DataError` for NaN logits.
    """
    episodes = [sampler(n) for n in numbers]
    with transport.ledger() as book:
        logits = head(*gather(features, episodes))
    if not torch.isfinite(logits).all():
        raise DataError(f"episodes {numbers.start}-{numbers.stop - 1}: NaN or infinite logits; check the weights")
    guess = logits.argmax(-1).cpu()
    records = []
    for episode, row, failed in zip(episodes, guess, book.failures(len(episodes)), strict=True):
        labels = episode.labels()
        correct = int((row == labels).sum())
        records.append({"episode": episode.number, "classes": [name(c) for c in episode.classes], "correct": correct,
                        "queries": len(labels), "accuracy": round(100 * correct / len(labels), 6),
                        "not_converged": failed})  # fmt: skip
    return records, book.seconds


def run(head: Head, features: Tensor, sampler: Sampler, start: int, stop: int, batch: int,
        done: Callable[[list[dict[str, Any]]], None], name: Callable[[int], str] = str) -> dict[str, float]:  # fmt: skip
    """Evaluate episodes start … stop−1 in batches; `done` gets each batch's records. Returns seconds."""
    begin, inside = perf_counter(), 0.0
    for first in range(start, stop, batch):
        records, spent = run_batch(head, features, sampler, range(first, min(first + batch, stop)), name)
        inside += spent
        done(records)
    return {"matching": perf_counter() - begin, "solver": inside}
