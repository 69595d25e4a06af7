"""Pre-training: cross-entropy over all base classes, validated by few-shot episodes (DeepEMD, sections 3.4 and 4.1)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from fewshot_cli.config.parts import build_backbone, build_classifier
from fewshot_cli.config.schema import PretrainSpec, Recipe
from fewshot_cli.config.stages import deciding
from fewshot_cli.contracts import Backbone
from fewshot_cli.data.pixels import Pixels
from fewshot_cli.data.prepare import dataset_of
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.evaluation import classification
from fewshot_cli.evaluation.results import TrainingResult, Validation
from fewshot_cli.runtime.device import onto, place
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import Run
from fewshot_cli.training.augment import Mixing, apply, draw, draw_mixing, mix, neighbours
from fewshot_cli.training.distil import Teacher, divergence, make_teacher
from fewshot_cli.training.loggers import check_loggers
from fewshot_cli.training.optimise import Job, fit
from fewshot_cli.training.sidecar import sidecar
from fewshot_cli.training.validation import validation_model, validator
from fewshot_cli.weights import checkpoint
from fewshot_cli.weights.find import find_named

Batch = tuple[Tensor, Tensor, Mixing | None]


class ClassObjective(nn.Module):
    """(images, labels, how they are mixed) → cross-entropy of the classifier on the backbone's maps, and the share
    correct.

    With `rotation` every image is seen in its four rotations, which a second classifier tells apart (Gidaris et al.
    2018; added to few-shot pre-training by Mangla et al. 2020). With a `teacher` its answers to the same images are
    learned beside the labels.
    """

    def __init__(
        self, backbone: Backbone[Any], classifier: nn.Module, spec: PretrainSpec, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.teacher = teacher  # a function, so that its weights are neither trained nor part of the state
        self.backbone: nn.Module = backbone
        self.classifier, self.spec = classifier, spec
        self.rotation_head = nn.Linear(backbone.channels, 4) if spec.rotation else None
        self.register_load_state_dict_pre_hook(_rename_rotation_head)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels, mixing = batch
        if mixing is not None:
            images = mix(images, mixing)
        if self.rotation_head is not None:
            images = torch.cat([images.rot90(k, (2, 3)) for k in range(4)]).contiguous(
                memory_format=torch.channels_last
            )
        maps = self.backbone(images)
        logits = self.classifier(maps).float()
        times = len(images) // len(labels)
        losses = self._loss(logits, labels.repeat(times))
        if mixing is not None:
            keep = onto(losses.device, mixing.keep).to(losses).repeat(times)
            other = self._loss(logits, labels[neighbours(len(labels), labels.device)].repeat(times))
            losses = keep * losses + (1 - keep) * other
        loss = losses.mean()
        if self.teacher is not None:
            distil = self.spec.distil
            taught = divergence(logits, self.teacher(images), distil.temperature)
            loss = (1 - distil.weight) * loss + distil.weight * taught
        if self.rotation_head is not None:
            turns = torch.arange(4, device=labels.device).repeat_interleave(len(labels))
            loss = loss + self.spec.rotation * F.cross_entropy(
                self.rotation_head(maps.flatten(2).mean(-1)).float(), turns
            )
        return loss, (logits.detach().argmax(1) == labels.repeat(times)).float().mean()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.spec.label_smoothing, reduction="none")


def pretrain(
    recipe: Recipe, root: Path, run_dir: Path | None, resume: bool, processes: Processes, log: Sequence[str] = ()
) -> TrainingResult | None:
    """Train backbone and classifier on the train split; returns the summary of the run.

    Under protocol `classification` the validation is top-1 on the `val` split; without one the last epoch's weights are
    kept.

    Without a run directory everything is checked and nothing trained.
    """
    spec, device = recipe.pretrain, processes.device
    store = processes.first(lambda: dataset_of(recipe, root))
    split, share = store.split("train"), processes.share(spec.batch, "pretrain.batch")
    if len(split) < spec.batch:
        raise DataError(
            f"{store.path}: the train split has {len(split)} images, a batch needs {spec.batch}; lower pretrain.batch"
        )
    if spec.mix != type(spec.mix)():
        processes.share(spec.batch // 2, "pretrain.batch in pairs")
    backbone = place(build_backbone(recipe), device)
    classifier = build_classifier(
        spec.classifier, backbone.channels, len(split.classes), recipe.classifier_solver, device
    )
    start = _started(recipe, backbone, classifier, split.classes, processes)
    teacher, taught_by = make_teacher(recipe, split.classes, processes) if spec.distil.teacher else (None, None)
    final = spec.size or recipe.image.size
    if spec.grow.start is not None and spec.grow.start > final:
        raise RecipeError(f"pretrain.grow.start: {spec.grow.start} lies above the side {final} of training; lower it")
    if spec.grow.start is not None:
        _try_side(backbone, spec.grow.start, recipe.backbone.name)
    episodes = recipe.eval.protocol == "episodes"
    if episodes:
        validated = validation_model(recipe, spec.validation, root, processes, backbone)
    check_loggers(log)
    if run_dir is None:
        return None
    decided_by = {"device": device.type, "data": store.index["sha256"], "recipe": deciding(recipe, "pretrain")}
    given = {
        key: digest for key, digest in (("start", start and start.sha256), ("teacher", taught_by)) if digest is not None
    }
    decided_by |= given
    run = Run.shared(processes, run_dir, "pretrain", recipe.resolved(), decided_by, resume)
    side = spec.augment.side or recipe.image.decoded
    if (done := processes.first(lambda: run.summary)) is not None:
        return done
    pixels = processes.each(lambda: Pixels(split, recipe, side, root, processes))
    labels, steps = split.labels.to(device), len(split) // spec.batch

    def batches(epoch: int, rng: Generator) -> Iterator[Batch]:
        order = torch.randperm(len(split), generator=rng)
        size = spec.grow.side(final, epoch, spec.epochs)
        for step in range(steps):
            pick = order[step * spec.batch : (step + 1) * spec.batch]
            draws = draw(pixels.sizes[pick], spec.augment, recipe.image, rng).part(share)
            mixing = draw_mixing(spec.batch, spec.mix, size, rng)
            images = apply(pixels(pick[share]), draws, spec.augment, recipe.image, size)
            yield images, labels[onto(device, pick[share])], mixing and mixing.part(share)

    if episodes:
        validate: Callable[[], Validation] | None = validator(
            validated, whole_images=True, half=spec.precision == "bf16"
        )
    else:
        half = spec.precision == "bf16"
        validate = classification.validator(recipe, store, backbone, classifier, root, processes, half)
    parts = {"backbone": recipe.backbone, "classifier": spec.classifier}
    job = Job(
        ClassObjective(backbone, classifier, spec, teacher).to(device),
        lambda *of: pixels.ahead(batches(*of)),
        steps,
        validate,
        {"backbone": backbone, "classifier": classifier},
        {**sidecar("pretrain", recipe, store, parts, start), "classes": split.classes, **given},
    )
    return fit(run, spec, job, processes, recipe.seed, log)


def _try_side(backbone: nn.Module, side: int, name: str) -> None:
    """Refuse a first side that the backbone's pools make nothing of."""
    weight = next(backbone.parameters())
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype))
    except RuntimeError as error:
        raise RecipeError(
            f"pretrain.grow.start: backbone {name} gives no map of images of {side}×{side}; raise it"
        ) from error
    finally:
        backbone.train()


def _started(
    recipe: Recipe, backbone: nn.Module, classifier: nn.Module, classes: list[str], processes: Processes
) -> checkpoint.Checkpoint | None:
    """Fill in the weights to start from, if there are any, and return them.

    A classifier of other classes keeps its random weights.
    """
    if (given := recipe.pretrain.start) is None:
        return None
    loaded = processes.each(lambda: find_named(recipe, given)).checkpoint
    loaded.fill(backbone, "backbone", "the backbone")
    if loaded.sidecar.get("classes") == classes:
        loaded.fill_known(classifier, "classifier")
    return loaded


def _rename_rotation_head(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The states of runs of earlier versions have another name for it."""
    for key in [key for key in state if key.startswith(f"{prefix}turned.")]:
        state[f"{prefix}rotation_head.{key.removeprefix(f'{prefix}turned.')}"] = state.pop(key)
