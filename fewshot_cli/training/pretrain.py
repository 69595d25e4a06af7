"""Pre-training: cross-entropy over all base classes, validated by few-shot episodes (DeepEMD, section 3.4 and 4.1)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from fewshot_cli.config.parts import build_backbone, build_classifier
from fewshot_cli.config.schema import PretrainSpec, Recipe
from fewshot_cli.config.stages import deciding
from fewshot_cli.data.pixels import Pixels
from fewshot_cli.data.prepare import open_dataset
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation import classification
from fewshot_cli.runtime.processes import World
from fewshot_cli.runtime.runs import Run
from fewshot_cli.training.augment import Mixing, apply, draw, draw_mixing, mix, neighbours
from fewshot_cli.training.optimise import Job, check_board, fit
from fewshot_cli.training.sidecar import sidecar
from fewshot_cli.training.validation import validation_model, validator

Batch = tuple[Tensor, Tensor, Mixing | None]


class ClassObjective(nn.Module):
    """(images, labels, how they are mixed) → cross-entropy of the classifier on the backbone's maps, and the share
    correct.

    With `rotation` every picture is seen in its four rotations, which a second classifier tells apart (Gidaris et al.
    2018; added to few-shot pre-training by Mangla et al. 2020).
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, spec: PretrainSpec) -> None:
        super().__init__()
        self.backbone, self.classifier, self.spec = backbone, classifier, spec
        self.turned = nn.Linear(backbone.channels, 4) if spec.rotation else None

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels, mixing = batch
        if mixing is not None:
            images = mix(images, mixing)
        if self.turned is not None:
            images = torch.cat([images.rot90(k, (2, 3)) for k in range(4)]).contiguous(
                memory_format=torch.channels_last
            )
        maps = self.backbone(images)
        logits = self.classifier(maps).float()
        times = len(images) // len(labels)
        own = self._loss(logits, labels.repeat(times))
        if mixing is not None:
            keep = mixing.keep.to(own).repeat(times)
            other = self._loss(logits, labels[neighbours(len(labels)).to(labels.device)].repeat(times))
            own = keep * own + (1 - keep) * other
        loss = own.mean()
        if self.turned is not None:
            turns = torch.arange(4, device=labels.device).repeat_interleave(len(labels))
            loss = loss + self.spec.rotation * F.cross_entropy(self.turned(maps.flatten(2).mean(-1)).float(), turns)
        return loss, (logits.detach().argmax(1) == labels.repeat(times)).float().mean()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.spec.label_smoothing, reduction="none")


def pretrain(
    recipe: Recipe, root: Path, run_dir: Path | None, resume: bool, world: World, board: bool = False
) -> dict[str, Any] | None:
    """Train backbone and classifier on the train split; returns the summary of the run.

    Under protocol `classification` the validation is top-1 on the `val` split; without one the last epoch's weights are
    kept.

    Without a run directory everything is checked and nothing trained.
    """
    spec, device = recipe.pretrain, world.device
    store = world.first(lambda: open_dataset(recipe.dataset.name, recipe.store, root))
    split, own = store.split("train"), world.share(spec.batch, "pretrain.batch")
    if len(split) < spec.batch:
        raise DataError(
            f"{store.path}: the train split has {len(split)} pictures, a batch needs {spec.batch}; lower pretrain.batch"
        )
    if spec.mix != type(spec.mix)():
        world.share(spec.batch // 2, "pretrain.batch in pairs")
    backbone = build_backbone(recipe).to(device, memory_format=torch.channels_last)
    classifier = build_classifier(
        spec.classifier, backbone.channels, len(split.classes), recipe.classifier_solver, device
    )
    episodes = recipe.eval.protocol == "episodes"
    if episodes:
        validated = validation_model(recipe, spec.validation, root, world, backbone)
    check_board(board)
    if run_dir is None:
        return None
    run = Run.shared(
        world, run_dir, "pretrain", recipe.resolved(), identity(recipe, store.index["sha256"], device), resume
    )
    side = spec.augment.side or recipe.image.decoded
    if (done := world.first(lambda: run.summary)) is not None:
        return done
    pixels = world.each(lambda: Pixels(split, recipe, side, root, world))
    labels, steps = split.labels.to(device), len(split) // spec.batch

    def batches(epoch: int, rng: Generator) -> Iterator[Batch]:
        order = torch.randperm(len(split), generator=rng)
        for step in range(steps):
            pick = order[step * spec.batch : (step + 1) * spec.batch]
            draws = draw(pixels.sizes[pick], spec.augment, recipe.image, rng).part(own)
            mixing = draw_mixing(spec.batch, spec.mix, recipe.image.size, rng)
            images = apply(pixels(pick[own]), draws, spec.augment, recipe.image)
            yield images, labels[pick[own].to(device)], mixing and mixing.part(own)

    if episodes:
        validate = validator(validated, whole_images=True)
    else:
        validate = classification.validator(recipe, store, backbone, classifier, root, world)
    parts = {"backbone": recipe.backbone, "classifier": spec.classifier}
    job = Job(
        ClassObjective(backbone, classifier, spec).to(device),
        lambda *of: pixels.ahead(batches(*of)),
        steps,
        validate,
        {"backbone": backbone, "classifier": classifier},
        {**sidecar("pretrain", recipe, store, parts), "classes": split.classes},
    )
    return fit(run, spec, job, world, recipe.seed, board)


def identity(recipe: Recipe, data_sha: str, device: torch.device) -> dict[str, Any]:
    """What decides the result of pre-training."""
    return {
        "device": device.type,
        "data": data_sha,
        "recipe": deciding(recipe, "pretrain"),
    }
