"""Labels for a user's own images, from a few examples per class or a learned classifier."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.user_images import TAKING, LabelledSet, LooseImages, Taking, all_bad_of, omissions
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.model import Model
from fewshot_cli.evaluation.support import Calibration, Recognition, calibrate
from fewshot_cli.predict.finetune import Learner
from fewshot_cli.predict.labeller import Labeller, from_classifier, from_examples, support_set
from fewshot_cli.runtime.console import progress
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import versions

PART = 16  # images that are in memory, and scored, at once
Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is wanted of labels: `reject` is the share of images of none of the classes that may still get a label
    (None: every image gets one), `sets` the share of images whose class must be in their set of labels (None: no sets),
    `temperature` that of the probabilities (None: fitted to the examples where every class has several).
    """

    reject: float | None = None
    sets: float | None = None
    temperature: float | None = None


class Classification:
    """A recipe opened with labelled examples or a learned classifier: it labels images, and says what it was made of.

    A head with a layer to learn (sfc) takes any number of examples per class, others the same number for all; with one
    example each, both are DeepEMD's 1-shot matching. A score is the softmax of the logits, a probability the same after
    temperature scaling, where every class has several examples. `support` is a folder, an archive, a CSV or a prepared
    dataset, `classifier` a file of `finetune-sfc`; one of them is given. Raises `DataError` for fewer than two classes,
    images that do not decode, unequal numbers where the head needs equal ones, and what cannot be `asked` of this
    support set.
    """

    labeller: Labeller

    def __init__(
        self,
        recipe: Recipe,
        support: Path | None,
        classifier: Path | None,
        given: Path | None,
        root: Path,
        device: torch.device,
        taking: Taking = TAKING,
        asked: Asked = Asked(),
    ) -> None:
        self.recipe, self.root, self.taking, self.asked = recipe, root, taking, asked
        self.support: LabelledSet | None = None
        self.classifier = classifier
        processes = Processes(device)
        self.model: Model
        if classifier is not None:
            self.model = learner = Learner.of(recipe, given, root, device)
            self.labeller = from_classifier(learner, classifier)
        else:
            assert support is not None
            self.model = Model.open(recipe, root, processes, given)
            self.where, self.support = support, support_set(support, recipe, root, taking)
        self.calibration: Calibration | None = None
        self.recognition: Recognition | None = None
        self.set_threshold: float | None = None

    @torch.no_grad()
    def learn(self) -> None:
        """Take in the support set, where there is one."""
        if self.support is not None:
            self.labeller = from_examples(self.model, self.support, self.where)
        examples, head = self.labeller.examples, self.model.head
        if self.asked.temperature is not None:
            self.calibration = Calibration(self.asked.temperature, 0, None, None)
        if examples is None:
            if self.asked.reject is not None or self.asked.sets is not None:
                raise DataError(
                    f"{self.classifier}: holds no examples, from which --reject and --set-of are learned; give "
                    "--support"
                )
            return
        several = min(self.labeller.counts) > 1
        if self.asked.sets is not None and not several:
            raise DataError(f"{self.where}: --set-of needs two or more examples of every class")
        if self.asked.reject is not None and len(self.labeller.classes) < 3:
            raise DataError(f"{self.where}: --reject leaves out one class at a time, which takes three classes or more")
        fits = several and self.calibration is None
        if not fits and self.asked.sets is None and self.asked.reject is None:
            return
        logits, labels = examples.left_out(head)
        if fits:
            self.calibration = calibrate(logits, labels)
        if self.asked.sets is not None:
            assert self.calibration is not None  # given, or fitted to several examples of every class
            self.set_threshold = _conformal((logits / self.calibration.temperature).softmax(1), labels, self.asked.sets)
        if self.asked.reject is not None:
            self.recognition = examples.recognition(head, logits, self.asked.reject)

    def label(self, paths: list[Path]) -> tuple[LooseImages, dict[str, Any]]:
        """Label every image of `paths`; the images, and the result of `fsl classify`."""
        images = LooseImages(paths, self.recipe.image, self.taking)
        own = (self.support, images)
        with all_bad_of(*own), transport.ledger() as ledger:
            self.learn()
            with progress("classify", len(images), "images") as bar:
                rows = self.rows(images, bar.update)
        found = {"pictures": rows, **omissions(*own), "not_converged": sum(ledger.failures(1)), "versions": versions()}
        return images, {**self.facts(), **found}

    @torch.no_grad()
    def rows(self, images: LooseImages, tick: Callable[[int], None] | None = None) -> list[Row]:
        """A record for each image, in order."""
        out: list[Row] = []
        for part in images.parts(PART):
            logits = self.labeller.score(self.model.features_once(part))
            out += self._rows(part.names, logits)
            if tick:
                tick(len(out))
        return out

    def _rows(self, names: list[str], logits: Tensor) -> list[Row]:
        known = [0.0] * len(names) if self.recognition is None else self.recognition.familiarity(logits).tolist()
        plain = logits.softmax(1).tolist()
        sure = plain if self.calibration is None else (logits / self.calibration.temperature).softmax(1).tolist()
        rows = []
        for name, scores, probabilities, near in zip(names, plain, sure, known, strict=True):
            best = max(range(len(scores)), key=scores.__getitem__)
            label: str | None = self.labeller.classes[best]
            row: Row = {"picture": name, "label": label, "score": scores[best]}
            if self.calibration is not None:
                row["probability"] = probabilities[best]
                row["probabilities"] = dict(zip(self.labeller.classes, probabilities, strict=True))
            if self.recognition is not None:
                row |= {"best": label, "familiarity": near}
                row["label"] = label if near >= self.recognition.threshold else None
            if self.set_threshold is not None:
                row["set"] = [
                    cls
                    for cls, p in zip(self.labeller.classes, probabilities, strict=True)
                    if p >= self.set_threshold or cls == label
                ]
            row["scores"] = dict(zip(self.labeller.classes, scores, strict=True))
            rows.append(row)
        return rows

    def facts(self) -> dict[str, Any]:
        """What the labels were made by, for a result."""
        counts: list[int] | list[None] = self.labeller.counts or [None] * len(self.labeller.classes)
        facts: dict[str, Any] = {
            "format": 1,
            "recipe": self.recipe.name,
            "head": self.recipe.head.name,
            "weights": self.model.weights.label,
            "support": dict(zip(self.labeller.classes, counts, strict=True)),
        }
        if self.calibration is not None:
            facts["calibration"] = asdict(self.calibration)
        if self.recognition is not None:
            told = self.recognition
            facts["reject"] = {"false_accept": self.asked.reject, "below": told.threshold, "refused": told.refused}
        if self.set_threshold is not None:
            facts["set_of"] = {"coverage": self.asked.sets, "above": self.set_threshold}
        return facts


def _conformal(probabilities: Tensor, labels: Tensor, coverage: float) -> float:
    """The probability from which on a class belongs to an image's set, so that a share `coverage` of images has its own
    class in it (split conformal prediction: the ⌈(n+1)·coverage⌉-th largest of n left-out images' own probabilities).

    0 where the examples are too few for this coverage: then every class is in every set.
    """
    own = probabilities[torch.arange(len(labels)), labels].sort(descending=True).values
    place = -int(-(len(own) + 1) * coverage // 1)  # rounded up
    return float(own[place - 1]) if place <= len(own) else 0.0
