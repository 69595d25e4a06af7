"""The protocol `classification`: top-1 and top-5 of a backbone and its classifier on images of the classes they were
trained on.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.parts import build_backbone, build_classifier
from fewshot_cli.config.schema import Recipe
from fewshot_cli.config.stages import deciding
from fewshot_cli.contracts import Backbone, Classifier
from fewshot_cli.data.pixels import Pixels
from fewshot_cli.data.prepare import dataset_of
from fewshot_cli.data.store import Split, Store
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.check import Check, judge
from fewshot_cli.evaluation.external import seen
from fewshot_cli.evaluation.results import ClassificationResult, PredictionRecord, Validation
from fewshot_cli.evaluation.stats import INTERVAL_IMAGES, share_ci95
from fewshot_cli.evaluation.tally import PREDICTIONS
from fewshot_cli.features.embed import BATCH
from fewshot_cli.features.preprocess import normalise
from fewshot_cli.runtime.console import progress
from fewshot_cli.runtime.device import place
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import Run, versions
from fewshot_cli.weights.find import FoundWeights, find_weights

TOP = 5


@torch.no_grad()
def predict(recipe: Recipe, images: Tensor, backbone: Backbone, classifier: Classifier, processes: Processes) -> Tensor:
    """The five likeliest classes [N,5] of decoded images (fewer of fewer classes), best first, in evaluation mode.

    The processes share the images. Raises `DataError` for NaN logits.
    """
    training = backbone.training, classifier.training
    backbone.eval()
    classifier.eval()
    top_classes = []
    with progress("classify", len(images), "images") as bar:
        for start in range(BATCH * processes.rank, len(images), BATCH * processes.size):
            some = images[start : start + BATCH]
            views = normalise(some.to(processes.device), recipe.image).contiguous(memory_format=torch.channels_last)
            logits = classifier(backbone(views).float())
            if not torch.isfinite(logits).all():
                raise DataError(f"images {start}-{start + len(some) - 1}: NaN or infinite logits; check the weights")
            top_classes.append((start, logits.topk(min(TOP, logits.shape[1]), 1).indices.cpu()))
            bar.update(start + len(some))
    backbone.train(training[0])
    classifier.train(training[1])
    return torch.cat(
        [top for _, top in sorted((x for part in processes.gather(top_classes) for x in part), key=lambda x: x[0])]
    )


def validator(
    recipe: Recipe,
    store: Store,
    backbone: Backbone,
    classifier: Classifier,
    root: Path,
    processes: Processes,
    half: bool,
) -> Callable[[], Validation] | None:
    """Top-1 and its interval on the validation images of the classes trained on; None when the store has no such
    split. `half`: the networks compute in bf16, as they do in training.
    """
    if "val" not in store.index["splits"]:
        return None
    split = store.split("val")
    pixels = processes.each(lambda: Pixels(split, recipe, recipe.image.decoded, root, processes))

    def validate() -> Validation:
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=half):
            hits = predict(recipe, pixels.images, backbone, classifier, processes)[:, 0] == split.labels
        accuracy, ci95 = share_ci95(int(hits.sum()), len(hits))
        return {"accuracy": accuracy, "ci95": ci95}

    return validate


class ClassModel:
    """A recipe of protocol `classification` with its weights, its backbone and its classifier in place.

    `classes` are those that the classifier tells apart.
    """

    weights: FoundWeights
    classes: list[str]
    backbone: Backbone[Any]
    classifier: Classifier[Any]

    def __init__(self, recipe: Recipe, root: Path, processes: Processes) -> None:
        self.recipe, self.root, self.processes = recipe, root, processes

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        root: Path,
        processes: Processes,
        weights: Path | None = None,
        *,
        with_dataset: bool = False,
    ) -> Self:
        """The model of a recipe; `weights` is a file in place of the recipe's own.

        Raises `DataError` for weights without a classifier or of another shape than the recipe's parts; and
        `with_dataset` also for a split whose classes are not those of the weights, or that is not prepared.
        """
        model = cls(recipe, root, processes)
        if with_dataset:
            _ = model.split  # a missing dataset is told before missing weights
        model.weights = processes.each(lambda: find_weights(recipe, weights, stages=("pretrain",)))
        if not any(name.startswith("classifier.") for name in model.weights.checkpoint.tensors):
            raise DataError(
                f"{model.weights.label}: holds no classifier, which protocol classification needs; give the weights of "
                "`fsl pretrain`"
            )
        trained_on = model.weights.checkpoint.sidecar.get("classes")
        if with_dataset and trained_on is not None and trained_on != model.split.classes:
            raise DataError(
                f"{root / recipe.store}: the {model.split.split} split has other classes than the weights were trained "
                f"on ({len(model.split.classes)}, {len(trained_on)}); protocol episodes is for new classes"
            )
        model.classes = trained_on or model.split.classes
        model._fill()
        return model

    def _fill(self) -> None:
        recipe, weights, spec = self.recipe, self.weights.checkpoint, self.recipe.pretrain.classifier
        backbone = build_backbone(recipe)
        weights.fill(backbone, "backbone", f"backbone {recipe.backbone.name}")
        classifier = build_classifier(
            spec, backbone.channels, len(self.classes), recipe.classifier_solver, self.processes.device
        )
        weights.fill(classifier, "classifier", f"classifier {spec.name}")
        self.backbone = place(backbone, self.processes.device).eval()
        self.classifier = classifier.eval()

    @cached_property
    def split(self) -> Split:
        """The split of the recipe's dataset that it evaluates (`eval.split`)."""
        return self.processes.first(lambda: dataset_of(self.recipe, self.root)).split(self.recipe.eval.split)


def evaluate_classes(
    recipe: Recipe,
    root: Path,
    run_dir: Path | None,
    resume: bool,
    processes: Processes,
    weights: Path | None = None,
    check: Check | None = None,
) -> ClassificationResult | None:
    """Evaluate a recipe's backbone and classifier and return the result; None when `run_dir` is None, after all
    checks. Raises `DataError`.
    """
    begin = perf_counter()
    model = ClassModel.open(recipe, root, processes, weights, with_dataset=True)
    if run_dir is None:
        return None
    split = model.split
    identity = {
        "device": processes.device.type,
        "data": split.sha256,
        "weights": model.weights.checkpoint.sha256,
        "recipe": deciding(recipe, "classification"),
    }
    run = Run.shared(processes, run_dir, "eval", recipe.resolved(), identity, resume)
    pixels = processes.each(lambda: Pixels(split, recipe, recipe.image.decoded, root, processes))
    with transport.ledger() as ledger:
        top = predict(recipe, pixels.images, model.backbone, model.classifier, processes)
    run.truncate(PREDICTIONS, 0)
    run.append(PREDICTIONS, _predictions(split, top))
    seconds = {"solver": ledger.seconds, "total": perf_counter() - begin}
    result = _result(model, top == split.labels[:, None], ledger, seconds, run_dir)
    run.finish(judge(result, recipe, check) if check else result)
    return result


def _predictions(split: Split, top: Tensor) -> list[PredictionRecord]:
    pairs = zip(split.labels.tolist(), top.tolist(), strict=True)
    return [
        {"picture": i, "class": split.classes[label], "top": [split.classes[c] for c in likeliest]}
        for i, (label, likeliest) in enumerate(pairs)
    ]


def _result(
    model: ClassModel, hits: Tensor, ledger: transport.Ledger, seconds: dict[str, float], run_dir: Path
) -> ClassificationResult:
    """The result of `hits` [N,5]: whether each of an image's likeliest classes is its own."""
    recipe, processes, split = model.recipe, model.processes, model.split
    top1, top1_ci95 = share_ci95(int(hits[:, 0].sum()), len(hits))
    top5, top5_ci95 = share_ci95(int(hits.any(1).sum()), len(hits))
    counted = torch.cat([x.float() for x in ledger.iterations]) if ledger.iterations else None
    iterations = None if counted is None else {"mean": float(counted.mean()), "spread": float(counted.std())}
    return {
        "format": 1,
        "protocol": "classification",
        "recipe": recipe.name,
        "dataset": recipe.store,
        "split": split.split,
        "backbone": recipe.backbone.name,
        "classifier": recipe.pretrain.classifier.name,
        "solver": recipe.classifier_solver.name if model.classifier.solver else None,
        "classes": len(split.classes),
        "pictures": len(split),
        "accuracy": top1,
        "ci95": top1_ci95,
        "top5": top5,
        "top5_ci95": top5_ci95,
        "interval": INTERVAL_IMAGES,
        "not_converged": sum(processes.gather(sum(ledger.failures(1)))),
        "iterations": iterations,
        "seconds": seconds,
        "seed": recipe.seed,
        "weights": model.weights.label,
        **seen(recipe, model.weights),
        "hashes": {"weights": model.weights.checkpoint.sha256, "data": split.sha256},
        "versions": versions(),
        "device": str(processes.device),
        "processes": processes.size,
        "run_dir": str(run_dir),
    }
