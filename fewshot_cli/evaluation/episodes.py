"""Episodes → one record each → a summary."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Head
from fewshot_cli.data.episodes import Sampler, gather
from fewshot_cli.data.pixels import room
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.check import Check, judge
from fewshot_cli.evaluation.external import seen
from fewshot_cli.evaluation.model import Model, Shared
from fewshot_cli.evaluation.plugged import NOTHING, Plugged
from fewshot_cli.evaluation.records import RECORDS, checked
from fewshot_cli.evaluation.results import EpisodeRecord, EpisodesResult
from fewshot_cli.evaluation.stats import INTERVAL, mean_ci95
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.render import plus_minus
from fewshot_cli.runtime.runs import Run, versions

ALIKE = 1e-6  # difference of scores, relative to them, that rounding alone makes
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


def channels_last(features: Tensor, processes: Processes) -> Tensor:
    """Features [N,d,h,w] whose channels lie together, as heads read them quickest; as they are where a copy does not
    fit.
    """
    fits = features.element_size() * features.numel() < room(processes) // 2
    return features.contiguous(memory_format=torch.channels_last) if fits else features


@torch.no_grad()
def run_batch(
    head: Head, features: Tensor, sampler: Sampler, numbers: range, name: Callable[[int], str] = str
) -> tuple[list[EpisodeRecord], float]:
    """Records of the episodes `numbers` and the seconds spent inside the solver; features live where the head works.

    A record is an `EpisodeRecord` and holds nothing that depends on how episodes were batched. Raises `DataError` for
    NaN logits, and for logits that are equal for all classes.
    """
    episodes = [sampler(n) for n in numbers]
    with transport.ledger() as ledger:
        logits = _logits(head, *gather(features, episodes))
    if not torch.isfinite(logits).all():
        raise DataError(f"episodes {numbers.start}-{numbers.stop - 1}: NaN or infinite logits; check the weights")
    if not bool((logits.amax(-1) - logits.amin(-1) > ALIKE * logits.abs().amax(-1)).any()):
        raise DataError(
            f"episodes {numbers.start}-{numbers.stop - 1}: every query scores all classes alike, so its guess says "
            "nothing; check the weights, the features they give, and the options of the head"
        )
    guess = logits.argmax(-1).cpu()
    records: list[EpisodeRecord] = []
    solved = ledger.posed(len(episodes)), ledger.failures(len(episodes))
    for episode, row, posed, failed in zip(episodes, guess, *solved, strict=True):
        labels = episode.labels()
        correct = int((row == labels).sum())
        records.append(
            {
                "episode": episode.number,
                "classes": [name(c) for c in episode.classes],
                "correct": correct,
                "queries": len(labels),
                "accuracy": 100 * correct / len(labels),
                "predicted": row.tolist(),
                "problems": posed,
                "not_converged": failed,
            }
        )
    return records, ledger.seconds


Batch = tuple[list[EpisodeRecord], float, float]  # records, seconds in the solver, seconds


def _timed(run: Callable[[], tuple[list[EpisodeRecord], float]]) -> Batch:
    begin = perf_counter()
    return *run(), perf_counter() - begin


def _nothing() -> Batch:
    return [], 0.0, 0.0


PACE = 1.0  # seconds that a batch should take at first, so that one sees it move


def next_size(size: int, seconds: float, most: int) -> int:
    """Episodes of the next batch after one of `size` that took so long: as many as take about `PACE`, at most four
    times as many and at most `most`.
    """
    return max(1, min(most, 4 * size, int(size * PACE / seconds) if seconds > 0 else most))


def run_episodes(
    head: Head,
    features: Tensor,
    sampler: Sampler,
    numbers: range,
    batch: int,
    done: Callable[[list[EpisodeRecord]], None],
    name: Callable[[int], str] = str,
    processes: Processes | None = None,
    gradual: bool = False,
) -> dict[str, float]:
    """Evaluate episodes in batches, shared out over the processes; `done` gets the records in the episodes' order, on
    every process. Batches that are `gradual` begin with one episode and grow up to `batch` while they are quick.
    Returns seconds, those in the solver summed over the processes. Raises `DataError` as `run_batch`, and when the
    features of all images are the same.
    """
    if len(features) > 1 and all(torch.equal(features[0], other) for other in features[1:]):
        raise DataError("the backbone gives the same features for every image; check the weights and the images")
    begin, inside = perf_counter(), 0.0
    processes = processes or Processes(features.device)
    if len(numbers) * sampler.way * (sampler.shot + sampler.query) > len(features):  # each is wanted several times
        features = channels_last(features, processes)
    at, size = 0, 1 if gradual else batch
    while at < len(numbers):
        mine = numbers[at + size * processes.rank :][:size]
        run = partial(_timed, partial(run_batch, head, features, sampler, mine, name)) if mine else _nothing
        batches = processes.gather(processes.each(run))
        at += size * processes.size
        if gradual:
            size = next_size(size, max(seconds for *_, seconds in batches), batch)
        for records, spent, _ in batches:
            inside += spent
            if records:
                done(records)
    return {"matching": perf_counter() - begin, "solver": inside}


def evaluate_episodes(
    recipe: Recipe,
    root: Path,
    run_dir: Path | None,
    resume: bool,
    processes: Processes,
    weights: Path | None = None,
    batch: int = 0,
    check: Check | None = None,
    plugged: Plugged = NOTHING,
    shared: Shared | None = None,
) -> EpisodesResult | None:
    """Evaluate a recipe and return its result; None when `run_dir` is None, after everything was checked.

    `batch` is the number of episodes in one solver call (0 chooses); it changes no result. `check` judges the result by
    what the recipe expects. `plugged` modules stand in for the recipe's parts. What the recipe has in common with the
    one evaluated last with the same `shared` is not opened again. Raises `DataError`.
    """
    begin = perf_counter()
    model = Model.open(recipe, root, processes, weights, with_dataset=True, plugged=plugged, shared=shared)
    if run_dir is None:
        return None
    split, sampler = model.split, model.sampler
    identity = model.identity("episodes", data=split.sha256, classes=sampler.classes)
    if plugged != NOTHING:
        identity["modules"] = model.names
    run = Run.shared(processes, run_dir, "eval", recipe.resolved(), identity, resume)
    queries = recipe.episode.way * recipe.episode.query
    records = processes.first(lambda: checked(run.lines(RECORDS), run_dir / RECORDS, queries, run.mark))
    if len(records) > recipe.eval.episodes:
        raise DataError(f"{run_dir / RECORDS}: holds {len(records)} episodes, the recipe has {recipe.eval.episodes}")
    finished = processes.first(lambda: run.summary) if len(records) == recipe.eval.episodes else None
    if finished is not None:
        return judge(finished, recipe, check) if check else finished
    if records:
        say(f"resuming after {len(records)} episodes")
    features = model.features()
    gradual, batch = not batch, batch or episodes_per_call(model.head, sampler, features)
    with progress(recipe.name, recipe.eval.episodes, "episodes") as bar:
        bar.update(len(records))

        def keep(new: list[EpisodeRecord]) -> None:
            run.append(RECORDS, [{**record, "run": run.mark} for record in new])
            records.extend(new)
            bar.update(len(records), plus_minus(*mean_ci95([r["accuracy"] for r in records])) + " %")

        left = range(len(records), recipe.eval.episodes)
        named = split.classes.__getitem__
        spent = run_episodes(model.head, features, sampler, left, batch, keep, named, processes, gradual)
    seconds = {"embedding": model.embedding_seconds, **spent, "total": perf_counter() - begin}
    result = _result(model, records, seconds, run_dir)
    run.finish(judge(result, recipe, check) if check else result)
    return result


def _result(model: Model, records: list[EpisodeRecord], seconds: dict[str, float], run_dir: Path) -> EpisodesResult:
    recipe, mean_interval = model.recipe, mean_ci95([r["accuracy"] for r in records])
    return {
        "format": 1,
        "recipe": recipe.name,
        "dataset": recipe.store,
        "split": model.split.split,
        "backbone": model.names["backbone"],
        "extractor": recipe.extractor.name,
        "head": model.names["head"],
        "solver": recipe.solver.name if model.head.solver is not None else None,
        "classes": len(model.sampler.classes),
        "way": recipe.episode.way,
        "shot": recipe.episode.shot,
        "query": recipe.episode.query,
        "episodes": len(records),
        "accuracy": mean_interval[0],
        "ci95": mean_interval[1],
        "interval": INTERVAL,
        "problems": None if any("problems" not in r for r in records) else sum(r["problems"] for r in records),
        "not_converged": sum(r["not_converged"] for r in records),
        "seconds": seconds,
        "seed": recipe.seed,
        "weights": model.weights.label,
        **seen(recipe, model.weights),
        "hashes": {"weights": model.weights.checkpoint.sha256, "data": model.split.sha256},
        "versions": versions(),
        "device": str(model.device),
        "processes": model.processes.size,
        "run_dir": str(run_dir),
    }
