"""A support set as it is, and without some of it: what can be learned of a head from the examples alone."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from fewshot_cli.contracts import Head, Learns
from fewshot_cli.evaluation.calibration import Familiarity, calibration_error, temperature

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Examples:
    """Labelled images that queries are compared with: maps [P,d,h,w] by class, and the class of each [P]."""

    maps: Tensor
    labels: Tensor

    def score(self, head: Head[Any]) -> Score:
        """Maps [N,d,h,w] → logits [N,way] under a head; a layer is learned where the head has one."""
        counts = torch.bincount(self.labels)
        if isinstance(head, Learns) and int(counts.max()) > 1:
            learnt = partial(head.score, head.learn(self.maps[None], self.labels))
            return lambda maps: learnt(maps[None])[0]
        support = self.maps.unflatten(0, (len(counts), -1))[None]
        return lambda maps: head(support, maps[None])[0]

    def without_one(self) -> Iterator[tuple["Examples", Tensor]]:
        """The examples without one of each class that has several, and the places [K] of those that are left out, until
        each was left out once.
        """
        members = [torch.nonzero(self.labels == c).flatten() for c in range(int(self.labels.max()) + 1)]
        for turn in range(max(map(len, members))):
            out = torch.tensor([int(of[turn]) for of in members if len(of) > max(1, turn)], dtype=torch.int64)
            if len(out):
                kept = torch.ones(len(self.labels), dtype=torch.bool).index_fill(0, out, False)
                yield Examples(self.maps[kept], self.labels[kept]), out

    def without_class(self, gone: int) -> "Examples":
        """The examples of the other classes, counted anew."""
        kept = self.labels != gone
        labels = self.labels[kept]
        return Examples(self.maps[kept], labels - (labels > gone).to(labels))

    def left_out(self, head: Head[Any]) -> tuple[Tensor, Tensor]:
        """Logits [K,way] and classes [K] of every image of a class that has several, each left out once."""
        logits, labels = [], []
        for kept, out in self.without_one():
            logits.append(kept.score(head)(self.maps[out]))
            labels.append(self.labels[out])
        if not logits:
            return torch.empty(0, int(self.labels.max()) + 1), torch.empty(0, dtype=torch.int64)
        return torch.cat(logits), torch.cat(labels)

    def recognition(self, head: Head[Any], known: Tensor, accepted: float) -> "Recognition":
        """What tells images of none of the classes from `known` ones, those of `left_out`, by logits [K,way], so that a
        share `accepted` of them passes for one.

        Each class in turn, left out of the support set, plays the unknown one. With one class fewer the nearest is
        farther, so each of the others stands in for it in turn. A few classes do not show how near unknown ones may
        come: the threshold is the upper bound of the next one's familiarity by Student's t over the classes.
        """
        way, found = int(self.labels.max()) + 1, []
        for c in range(way):
            logits = self.without_class(c).score(head)(self.maps[self.labels == c])
            found += [torch.cat([logits, logits[:, other : other + 1]], 1) for other in range(way - 1)]
        unknown = torch.cat(found)
        measure = Familiarity(known, unknown)
        near = measure(unknown)
        bound = float(student.ppf(1 - accepted, way - 1)) * math.sqrt(1 + 1 / way)
        threshold = float(near.mean() + bound * near.std())
        refused = float((measure(known) < threshold).double().mean()) if len(known) else None
        return Recognition(measure, threshold, refused)


@dataclass(frozen=True)
class Recognition:
    """How familiar images are, of their logits, the threshold below which they are none of the classes, and the share
    of the examples, each left out once, that it would refuse (None where classes have one example each).
    """

    familiarity: Familiarity
    threshold: float
    refused: float | None


@dataclass(frozen=True)
class Calibration:
    """A head's temperature, the number of images it was fitted to, and their expected calibration error in per cent:
    with the plain softmax, and with a temperature fitted to the other half of them (None where there are no halves).
    """

    temperature: float
    images: int
    before: float | None
    after: float | None


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """The temperature for logits [K,way] of images with these classes, and what it does to their calibration."""
    before = calibration_error(logits.softmax(1), labels)
    after = calibration_error(held_out(logits, labels), labels) if len(labels) > 1 else None
    return Calibration(temperature(logits, labels), len(labels), before, after)


def held_out(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities [K,way] of images at the temperature of the other half of them: every second one."""
    out = torch.empty_like(logits)
    half = torch.arange(len(labels)) % 2 == 0
    for mine in (half, ~half):
        out[mine] = (logits[mine] / temperature(logits[~mine], labels[~mine])).softmax(1)
    return out
