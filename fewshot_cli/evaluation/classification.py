"""The protocol `classification`: top-1 and top-5 of a backbone and its classifier on pictures of the classes they were
trained on.
"""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.parts import build_backbone, build_classifier
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Backbone, Classifier
from fewshot_cli.data.pixels import Pixels
from fewshot_cli.data.prepare import open_dataset
from fewshot_cli.data.store import Store
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.results import judge
from fewshot_cli.evaluation.stats import INTERVAL_PICTURES, share_ci95
from fewshot_cli.features.embed import BATCH
from fewshot_cli.features.preprocess import normalise
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.processes import World
from fewshot_cli.runtime.runs import Run, versions
from fewshot_cli.weights.find import FoundWeights, find_weights

TOP = 5
PREDICTIONS = "predictions.jsonl"


@torch.no_grad()
def predict(recipe: Recipe, images: Tensor, backbone: Backbone, classifier: Classifier, world: World) -> Tensor:
    """The five likeliest classes [N,5] of decoded pictures (fewer of fewer classes), best first, in evaluation mode.

    The processes share the pictures. Raises `DataError` for NaN logits.
    """
    training = backbone.training, classifier.training
    backbone.eval()
    classifier.eval()
    found = []
    with progress("classify", len(images)) as bar:
        for start in range(BATCH * world.rank, len(images), BATCH * world.size):
            some = images[start : start + BATCH]
            views = normalise(some.to(world.device), recipe.image).contiguous(memory_format=torch.channels_last)
            logits = classifier(backbone(views).float())
            if not torch.isfinite(logits).all():
                raise DataError(f"pictures {start}-{start + len(some) - 1}: NaN or infinite logits; check the weights")
            found.append((start, logits.topk(min(TOP, logits.shape[1]), 1).indices.cpu()))
            bar.update(start + len(some))
    backbone.train(training[0])
    classifier.train(training[1])
    return torch.cat([top for _, top in sorted((x for part in world.gather(found) for x in part), key=lambda x: x[0])])


def validator(
    recipe: Recipe, store: Store, backbone: Backbone, classifier: Classifier, root: Path, world: World
) -> Callable[[], dict[str, float]] | None:
    """Top-1 and its interval on the validation pictures of the classes trained on; None when the store has no such
    split.
    """
    if "val" not in store.index["splits"]:
        return None
    split = store.split("val")
    pixels = world.each(lambda: Pixels(split, recipe, recipe.image.decoded, root, world))

    def validate() -> dict[str, float]:
        hits = predict(recipe, pixels.images, backbone, classifier, world)[:, 0] == split.labels
        return dict(zip(("accuracy", "ci95"), share_ci95(int(hits.sum()), len(hits)), strict=True))

    return validate


def trained(recipe: Recipe, given: Path | None) -> FoundWeights:
    """The weights of a recipe's pre-training. Raises `DataError` for weights without the classifier."""
    weights = find_weights(recipe, given, stages=("pretrain",))
    if not any(name.startswith("classifier.") for name in weights.checkpoint.tensors):
        raise DataError(
            f"{weights.label}: holds no classifier, which protocol classification needs; give the weights of "
            "`fsl pretrain`"
        )
    return weights


def load_parts(
    recipe: Recipe, weights: FoundWeights, classes: int, device: torch.device
) -> tuple[Backbone, Classifier]:
    """Backbone, on the CPU, and classifier, on the device, with the weights. Raises `DataError` when these do not
    fit.
    """
    backbone, spec = build_backbone(recipe), recipe.pretrain.classifier
    weights.checkpoint.fill(backbone, "backbone", f"backbone {recipe.backbone.name}")
    classifier = build_classifier(spec, backbone.channels, classes, recipe.classifier_solver, device)
    weights.checkpoint.fill(classifier, "classifier", f"classifier {spec.name}")
    return backbone, classifier


def evaluate_classes(
    recipe: Recipe, root: Path, run_dir: Path | None, resume: bool, world: World, given: Path | None, check: bool
) -> dict[str, Any] | None:
    """Evaluate a recipe's backbone and classifier and return the summary; None when `run_dir` is None, after all
    checks.

    Raises `DataError` for weights without the classifier and for a split of other classes than those trained on.
    """
    begin = perf_counter()
    store = world.first(lambda: open_dataset(recipe, root))
    split = store.split(recipe.eval.split)
    weights = world.each(lambda: trained(recipe, given))
    named = weights.checkpoint.sidecar.get("classes")
    if named is not None and named != split.classes:
        raise DataError(
            f"{store.path}: the {split.split} split has other classes than the weights were trained on "
            f"({len(split.classes)}, {len(named)}); protocol episodes is for new classes"
        )
    backbone, classifier = load_parts(recipe, weights, len(split.classes), world.device)
    spec = recipe.pretrain.classifier
    if run_dir is None:
        return None
    drop = ("metatrain", "weights", "episode")
    run = Run.shared(
        world,
        run_dir,
        "eval",
        recipe,
        {
            "device": world.device.type,
            "data": split.sha256,
            "weights": weights.checkpoint.sha256,
            "recipe": {k: v for k, v in recipe.identity().items() if k not in drop},
        },
        resume,
    )
    say(f"run directory: {run_dir}")
    pixels = world.each(lambda: Pixels(split, recipe, recipe.image.decoded, root, world))
    backbone = backbone.to(world.device, memory_format=torch.channels_last)
    with transport.ledger() as book:
        top = predict(recipe, pixels.images, backbone, classifier, world)
    run.truncate(PREDICTIONS, 0)
    run.append(
        PREDICTIONS,
        [
            {"picture": i, "class": split.classes[t], "top": [split.classes[c] for c in row]}
            for i, (t, row) in enumerate(zip(split.labels.tolist(), top.tolist(), strict=True))
        ],
    )
    hits = top == split.labels[:, None]
    first, ci95 = share_ci95(int(hits[:, 0].sum()), len(hits))
    among, among_ci95 = share_ci95(int(hits.any(1).sum()), len(hits))
    iterations = torch.cat([x.float() for x in book.iterations]) if book.iterations else None
    summary = {
        "format": 1,
        "protocol": "classification",
        "recipe": recipe.name,
        "dataset": recipe.store,
        "split": split.split,
        "backbone": recipe.backbone.name,
        "classifier": spec.name,
        "solver": recipe.classifier_solver.name if classifier.solver else None,
        "classes": len(split.classes),
        "pictures": len(split),
        "accuracy": first,
        "ci95": ci95,
        "top5": among,
        "top5_ci95": among_ci95,
        "interval": INTERVAL_PICTURES,
        "not_converged": sum(world.gather(sum(book.failures(1)))),
        "iterations": None
        if iterations is None
        else {"mean": float(iterations.mean()), "spread": float(iterations.std())},
        "seconds": {"solver": book.seconds, "total": perf_counter() - begin},
        "seed": recipe.seed,
        "weights": weights.label,
        "hashes": {"weights": weights.checkpoint.sha256, "data": split.sha256},
        "versions": versions(),
        "device": str(world.device),
        "processes": world.size,
        "run_dir": str(run_dir),
    }
    run.finish(judge(summary, recipe) if check else summary)
    return summary
