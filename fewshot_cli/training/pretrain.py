"""Pre-training: cross-entropy over all base classes, validated by few-shot episodes (DeepEMD, section 3.4 and 4.1)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from fewshot_cli import build, registry
from fewshot_cli.errors import DataError
from fewshot_cli.runs import Run
from fewshot_cli.schema import Recipe
from fewshot_cli.training import data
from fewshot_cli.training.augment import augment
from fewshot_cli.training.loop import fit


class _Objective(nn.Module):
    """(images, labels) → cross-entropy of the classifier on the backbone's maps, and the share correct."""

    def __init__(self, backbone: nn.Module, classifier: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.backbone, self.classifier, self.label_smoothing = backbone, classifier, label_smoothing

    def forward(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self.classifier(self.backbone(images)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return loss, (logits.detach().argmax(1) == labels).float().mean()


def pretrain(recipe: Recipe, root: Path, run_dir: Path, resume: bool, device: torch.device) -> dict[str, Any]:
    """Train backbone and classifier on the train split; returns the summary of the run."""
    spec, store = recipe.pretrain, build.store(recipe, root)
    split = store.split("train")
    if len(split) < spec.batch:
        raise DataError(f"{store.path}: the train split has {len(split)} pictures, a batch needs {spec.batch}; "
                        "lower pretrain.batch")  # fmt: skip
    backbone = build.backbone(recipe).to(device, memory_format=torch.channels_last)
    classifier = registry.part("classifiers", spec.classifier.name)(
        spec.classifier.options, channels=backbone.channels, classes=len(split.classes)).to(device)  # fmt: skip
    run = Run(run_dir, "pretrain", recipe, identity(recipe, store.index["sha256"], device), resume)
    images, sizes = data.decode(split, recipe, recipe.image.decoded, device)
    labels, steps = split.labels.to(device), len(split) // spec.batch

    def batches(epoch: int, rng: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(split), generator=rng)
        for step in range(steps):
            pick = order[step * spec.batch : (step + 1) * spec.batch]
            there = pick.to(device)
            yield augment(images[there], sizes[pick], spec.augment, recipe.image, rng), labels[there]

    return fit(
        run, spec, _Objective(backbone, classifier, spec.label_smoothing), batches, steps,
        data.validator(recipe, spec.validation, store, backbone, None, device),
        {"backbone": backbone, "classifier": classifier},
        data.sidecar("pretrain", recipe, store, {"backbone": recipe.backbone, "classifier": spec.classifier}),
        device, recipe.seed,
    )  # fmt: skip


def identity(recipe: Recipe, data_sha: str, device: torch.device) -> dict[str, Any]:
    """What decides the result of pre-training."""
    drop = ("metatrain", "eval", "weights")
    return {
        "device": device.type,
        "data": data_sha,
        "recipe": {k: v for k, v in recipe.identity().items() if k not in drop},
    }
