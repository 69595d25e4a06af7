"""Episodes → one record each → a summary."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.parts import matching_device
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Head
from fewshot_cli.data.episodes import Sampler, gather
from fewshot_cli.data.prepare import open_dataset
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.model import load_parts, sampler_of
from fewshot_cli.evaluation.results import judge
from fewshot_cli.evaluation.stats import INTERVAL, mean_ci95
from fewshot_cli.features.cache import cached_features
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.processes import World
from fewshot_cli.runtime.runs import Run, versions
from fewshot_cli.weights.find import find_weights

BUDGET = 64 << 20  # elements of the largest tensors in one call, so that a batch of episodes fits the memory


def episodes_per_call(head: Head, sampler: Sampler, features: Tensor) -> int:
    """How many episodes go into one call of a head on features [N,d,h,w]."""
    cells = head.elements(sampler.way, sampler.shot, sampler.query, features.shape[2] * features.shape[3])
    maps = sampler.way * (sampler.shot + sampler.query) * features[0].numel()
    return max(1, min(64, BUDGET // 4 // max(1, cells), BUDGET // max(1, maps)))


def _logits(head: Head, support: Tensor, query: Tensor) -> Tensor:
    """Logits [E,q,way]; the queries of one episode too large for the memory are scored part by part."""
    (way, shot), q = support.shape[1:3], query.shape[1]
    cells = head.elements(way, shot, -(-q // way), query.shape[3] * query.shape[4])
    parts = 1 if len(support) > 1 else min(q, -(-cells // BUDGET))
    return torch.cat([head(support, part) for part in query.chunk(parts, 1)], 1)


@torch.no_grad()
def run_batch(
    head: Head, features: Tensor, sampler: Sampler, numbers: range, name: Callable[[int], str] = str
) -> tuple[list[dict[str, Any]], float]:
    """Records of the episodes `numbers` and the seconds spent inside the solver; features live where the head works.

    A record holds the episode's number, its classes, the correct answers, the accuracy in per cent and the problems a
    solver gave up on; nothing that depends on how episodes were batched. Raises `DataError` for NaN logits.
    """
    episodes = [sampler(n) for n in numbers]
    with transport.ledger() as book:
        logits = _logits(head, *gather(features, episodes))
    if not torch.isfinite(logits).all():
        raise DataError(f"episodes {numbers.start}-{numbers.stop - 1}: NaN or infinite logits; check the weights")
    guess = logits.argmax(-1).cpu()
    records = []
    for episode, row, failed in zip(episodes, guess, book.failures(len(episodes)), strict=True):
        labels = episode.labels()
        correct = int((row == labels).sum())
        records.append(
            {
                "episode": episode.number,
                "classes": [name(c) for c in episode.classes],
                "correct": correct,
                "queries": len(labels),
                "accuracy": 100 * correct / len(labels),
                "not_converged": failed,
            }
        )
    return records, book.seconds


def run_episodes(
    head: Head,
    features: Tensor,
    sampler: Sampler,
    numbers: range,
    batch: int,
    done: Callable[[list[dict[str, Any]]], None],
    name: Callable[[int], str] = str,
    world: World | None = None,
) -> dict[str, float]:
    """Evaluate episodes in batches, shared out over the processes; `done` gets the records in the episodes' order, on
    every process. Returns seconds, those in the solver summed over the processes.
    """
    begin, inside = perf_counter(), 0.0
    world = world or World(features.device)
    batches = [numbers[i : i + batch] for i in range(0, len(numbers), batch)]
    for i in range(0, len(batches), world.size):
        own = batches[i + world.rank : i + world.rank + 1]
        found = world.each(lambda own=own: run_batch(head, features, sampler, own[0], name) if own else ([], 0.0))
        for records, spent in world.gather(found):
            inside += spent
            if records:
                done(records)
    return {"matching": perf_counter() - begin, "solver": inside}


def evaluate_episodes(
    recipe: Recipe,
    root: Path,
    run_dir: Path | None,
    resume: bool,
    world: World,
    given: Path | None,
    batch: int,
    check: bool,
) -> dict[str, Any] | None:
    """Evaluate a recipe and return its summary; None when `run_dir` is None, after everything was checked.

    `batch` is the number of episodes in one solver call (0 chooses); it changes no result. Raises `DataError`.
    """
    begin, device = perf_counter(), world.device
    store = world.first(lambda: open_dataset(recipe, root))
    split = store.split(recipe.eval.split)
    sampler = sampler_of(recipe, split, root)
    weights = world.each(lambda: find_weights(recipe, given))
    backbone, head = load_parts(recipe, weights)
    if run_dir is None:
        return None
    home = matching_device(head, device)
    identity = {
        "device": device.type,
        "data": split.sha256,
        "classes": sampler.classes,
        "weights": weights.checkpoint.sha256,
        "recipe": {k: v for k, v in recipe.identity().items() if k not in ("pretrain", "metatrain", "weights")},
    }
    run = Run.shared(world, run_dir, "eval", recipe, identity, resume)
    done = world.first(lambda: run.lines("episodes.jsonl"))
    say(f"run directory: {run_dir}" + (f", resuming after {len(done)} episodes" if done else ""))
    features, embedding = cached_features(recipe, split, backbone, weights.checkpoint.sha256, root, world)
    features = features.to(home)
    head = head.to(home).eval()
    batch = batch or episodes_per_call(head, sampler, features)
    total = recipe.eval.episodes

    with progress(recipe.name, total) as bar:

        def keep(records: list[dict[str, Any]]) -> None:
            run.append("episodes.jsonl", records)
            done.extend(records)
            mean, ci95 = mean_ci95([r["accuracy"] for r in done])
            bar.update(len(done), f"{mean:.2f} ± {ci95:.2f} %")

        left = range(len(done), total)
        spent = run_episodes(head, features, sampler, left, batch, keep, lambda c: split.classes[c], world)
    mean, ci95 = mean_ci95([r["accuracy"] for r in done])
    summary = {
        "format": 1,
        "recipe": recipe.name,
        "dataset": recipe.store,
        "split": split.split,
        "backbone": recipe.backbone.name,
        "extractor": recipe.extractor.name,
        "head": recipe.head.name,
        "solver": recipe.solver.name if head.solver is not None else None,
        "classes": len(sampler.classes),
        "way": recipe.episode.way,
        "shot": recipe.episode.shot,
        "query": recipe.episode.query,
        "episodes": len(done),
        "accuracy": mean,
        "ci95": ci95,
        "interval": INTERVAL,
        "not_converged": sum(r["not_converged"] for r in done),
        "seconds": {"embedding": embedding, **spent, "total": perf_counter() - begin},
        "seed": recipe.seed,
        "weights": weights.label,
        "hashes": {"weights": weights.checkpoint.sha256, "data": split.sha256},
        "versions": versions(),
        "device": str(device),
        "processes": world.size,
        "run_dir": str(run_dir),
    }
    run.finish(judge(summary, recipe) if check else summary)
    return summary
