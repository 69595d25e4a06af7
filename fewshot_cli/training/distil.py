"""Distillation in pre-training: a finished network of the same kind teaches the next one (born-again networks)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.config.parts import build_backbone, build_classifier
from fewshot_cli.config.schema import Recipe
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.device import place
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.weights.find import find_named

Teacher = Callable[[Tensor], Tensor]


def make_teacher(recipe: Recipe, classes: list[str], processes: Processes) -> tuple[Teacher, str]:
    """The network in the weights that `pretrain.distil.teacher` names, with the recipe's backbone and classifier, and
    their SHA-256: images [B, 3, h, w] → logits [B, C] over `classes`, without a gradient.

    Raises `DataError` for weights without a classifier of these classes.
    """
    spec, given = recipe.pretrain, str(recipe.pretrain.distil.teacher)
    loaded = processes.each(lambda: find_named(recipe, given)).checkpoint
    if loaded.sidecar.get("classes") != classes:
        raise DataError(
            f"pretrain.distil.teacher: {given} was not trained on the {len(classes)} classes of the train split, so "
            f"its classifier teaches nothing; give the weights of a run of fsl pretrain on {recipe.dataset.name}"
        )
    backbone = place(build_backbone(recipe), processes.device)
    classifier = build_classifier(
        spec.classifier, backbone.channels, len(classes), recipe.classifier_solver, processes.device
    )
    loaded.fill(backbone, "backbone", "the teacher's backbone")
    loaded.fill(classifier, "classifier", "the teacher's classifier")
    backbone.eval()
    classifier.eval()

    @torch.no_grad()
    def teach(images: Tensor) -> Tensor:
        logits: Tensor = classifier(backbone(images))
        return logits.float()

    return teach, loaded.sha256


def divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher ‖ student) of [B, C] logits divided by the temperature T, its mean over the batch (Hinton et al.
    2015, section 2; T² keeps the gradient's size).
    """
    student, teacher = (F.log_softmax(x / temperature, dim=1) for x in (logits, taught))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
