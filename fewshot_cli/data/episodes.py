"""(dataset, split, seed, number) → episode: a pure function, from a counter-based generator.

Only raw Philox words are used, whose stream NumPy guarantees. Each class draws its images from its own counter, queries
first, so an episode with more ways or more shots contains the smaller one, and comparisons over way and shot are
paired.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.data.store import Split
from fewshot_cli.errors import DataError


@dataclass(frozen=True)
class Episode:
    """One few-shot task: indices into a split. `classes` [way], `support` [way,shot], `query` [way,queries]."""

    number: int
    classes: tuple[int, ...]
    support: Tensor
    query: Tensor

    def labels(self) -> Tensor:
        """Label of each query, class by class: [way*queries] int64."""
        way, queries = self.query.shape
        return torch.arange(way).repeat_interleave(queries)


class Sampler:
    """Episodes of one split, or of those of its classes that are `kept`.

    Raises `DataError` when the split cannot fill one, with the class, the images it has and those it needs.
    """

    def __init__(self, split: Split, way: int, shot: int, query: int, seed: int, kept: list[int] | None = None) -> None:
        self.classes = list(range(len(split.classes))) if kept is None else kept
        members = split.members()
        self.members = [members[c] for c in self.classes]
        self.way, self.shot, self.query = way, shot, query
        need = shot + query
        where = f"{split.store}, {split.split} split"
        if len(self.members) < way:
            count = len(self.members)
            has = "1 class" if count == 1 else f"{count} classes"
            help_ = (
                "lower episode.way" if count > 1 else "give the split more classes, or evaluate another (eval.split)"
            )
            raise DataError(f"{where}: has {has}, {way}-way episodes need {way}; {help_}")
        for c, images in zip(self.classes, self.members, strict=True):
            if len(images) < need:
                raise DataError(
                    f"{where}: class {split.classes[c]} has {len(images)} images, an episode needs {need} "
                    f"({shot} support + {query} query); lower episode.shot or episode.query"
                )
        digest = hashlib.sha256(f"{split.store}/{split.split}/{seed}".encode()).digest()
        self._key = int.from_bytes(digest[:16], "little")

    def __call__(self, number: int) -> Episode:
        """Episode `number` (0, 1, 2, …)."""
        classes = self._draw(number, 0, len(self.members), self.way)
        rows = []
        for c in classes:
            images = self.members[c]
            rows.append(images[self._draw(number, 1 + c, len(images), self.query + self.shot)])
        table = torch.stack(rows)
        return Episode(number, tuple(self.classes[c] for c in classes), table[:, self.query :], table[:, : self.query])

    def _draw(self, number: int, stream: int, count: int, take: int) -> list[int]:
        """The first `take` places of a Fisher-Yates shuffle of range(count)."""
        raw = np.random.Philox(key=self._key, counter=[0, stream, number, 0]).random_raw(take).tolist()
        swapped: dict[int, int] = {}
        out = []
        for i, word in enumerate(raw):
            j = i + (word * (count - i) >> 64)
            out.append(swapped.get(j, j))
            swapped[j] = swapped.get(i, i)
        return out


def gather(features: Tensor, episodes: list[Episode]) -> tuple[Tensor, Tensor]:
    """Support maps [E,way,shot,d,h,w] and query maps [E,way·queries,d,h,w] from features [N,d,h,w]."""
    support = torch.stack([e.support for e in episodes]).to(features.device)
    query = torch.stack([e.query.flatten() for e in episodes]).to(features.device)
    return features[support], features[query]
