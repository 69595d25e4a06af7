"""Episodes with classes that the support set does not know: how well they are told, how much probabilities say."""

from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.errors import RecipeError
from fewshot_cli.evaluation.calibration import FAMILIARITY, auroc, calibration_error, familiarity, temperature
from fewshot_cli.evaluation.external import seen
from fewshot_cli.evaluation.model import Model
from fewshot_cli.evaluation.stats import INTERVAL, mean_ci95
from fewshot_cli.evaluation.support import Examples
from fewshot_cli.runtime.console import progress
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import versions


@torch.no_grad()
def evaluate_open_set(
    recipe: Recipe, root: Path, processes: Processes, unknown: int, accepted: float, weights: Path | None = None
) -> dict[str, Any]:
    """Accuracy, calibration and recognition of unknown classes over a recipe's episodes, in per cent.

    Each episode has the classes and images of the plain evaluation and `unknown` more classes without support. All that
    is used to calibrate and to refuse is learned from an episode's support set, whose images (at two shots or more) and
    classes are left out in turn; `accepted` is the share of unknown images that the threshold is to let pass. AUROC is
    the mean over episodes, by each way of measuring familiarity. Raises `DataError` when a split has too few classes,
    `RecipeError` for two ways, of which none can be left out.
    """
    begin, spec = perf_counter(), recipe.episode
    if spec.way < 3:
        raise RecipeError(
            "--open-set leaves out a class of the support set at a time, which takes episode.way=3 or more"
        )
    model = Model.open(recipe, root, processes, weights, with_dataset=True)
    kept, head = model.sampler.classes, model.head
    sampler = Sampler(model.split, spec.way + unknown, spec.shot, spec.query, recipe.seed, kept)
    features, queries = model.features(), spec.way * spec.query
    truth = torch.arange(spec.way).repeat_interleave(spec.query)
    areas: dict[str, list[float]] = {name: [] for name in ("learned", *FAMILIARITY)}
    accuracies, passed, refused, plain, calibrated = [], [], [], [], []
    with progress(f"{recipe.name}, open set", recipe.eval.episodes, "episodes") as bar, transport.ledger() as ledger:
        for number in range(recipe.eval.episodes):
            episode = sampler(number)
            support = features[episode.support[: spec.way].flatten()]
            examples = Examples(support, torch.arange(spec.way).repeat_interleave(spec.shot))
            logits = examples.score(head)(features[episode.query.flatten()]).cpu()
            known = logits[:queries]
            accuracies.append(100 * float((known.argmax(1) == truth).float().mean()))
            left, left_labels = examples.left_out(head)
            told = examples.recognition(head, left, accepted)
            near, below = told.familiarity(logits), told.threshold
            areas["learned"].append(auroc(near[:queries], near[queries:]))
            for name in FAMILIARITY:
                plainly = familiarity(logits, name)
                areas[name].append(auroc(plainly[:queries], plainly[queries:]))
            passed.append(100 * float((near[queries:] >= below).float().mean()))
            refused.append(100 * float((near[:queries] < below).float().mean()))
            plain.append(known.softmax(1))
            if spec.shot > 1:
                calibrated.append((known / temperature(left, left_labels)).softmax(1))
            bar.update(number + 1)
    labels = truth.repeat(recipe.eval.episodes)
    mean = {key: mean_ci95(values) for key, values in {"accuracy": accuracies, **areas}.items()}
    return {
        "format": 1,
        "recipe": recipe.name,
        "dataset": recipe.store,
        "split": model.split.split,
        "head": recipe.head.name,
        "way": spec.way,
        "shot": spec.shot,
        "query": spec.query,
        "unknown": unknown,
        "episodes": recipe.eval.episodes,
        "accuracy": mean["accuracy"][0],
        "ci95": mean["accuracy"][1],
        "interval": INTERVAL,
        "auroc": {name: {"mean": mean[name][0], "ci95": mean[name][1]} for name in areas},
        "false_accept": {"asked": 100 * accepted, "measured": mean_ci95(passed)[0]},
        "false_reject": mean_ci95(refused)[0],
        "calibration_error": {
            "before": calibration_error(torch.cat(plain), labels),
            "after": calibration_error(torch.cat(calibrated), labels) if calibrated else None,
        },
        "not_converged": sum(ledger.failures(1)),
        "seconds": {"embedding": model.embedding_seconds, "total": perf_counter() - begin},
        "seed": recipe.seed,
        "weights": model.weights.label,
        **seen(recipe, model.weights),
        "hashes": {"weights": model.weights.checkpoint.sha256, "data": model.split.sha256},
        "versions": versions(),
    }
