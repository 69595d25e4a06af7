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
        self._key = np.frombuffer(digest[:16], "<u8").astype(np.uint64)
        self._starts = np.cumsum([0, *map(len, self.members)])
        self._images = torch.cat(self.members).numpy()

    def __call__(self, number: int) -> Episode:
        """Episode `number` (0, 1, 2, …)."""
        from fewshot_cli.kernels.draws import episode  # here, since loading what is compiled takes a while

        chosen, table = np.empty(self.way, np.int64), np.empty((self.way, self.query + self.shot), np.int64)
        episode(self._key, number, self._starts, self._images, chosen, table)
        images, classes = torch.from_numpy(table), tuple(self.classes[c] for c in chosen)
        return Episode(number, classes, images[:, self.query :], images[:, : self.query])


def gather(features: Tensor, episodes: list[Episode]) -> tuple[Tensor, Tensor]:
    """Support maps [E,way,shot,d,h,w] and query maps [E,way·queries,d,h,w] from features [N,d,h,w].

    It is quickest where these are channels last, as what comes out is.
    """
    support = torch.stack([e.support for e in episodes]).to(features.device)
    query = torch.stack([e.query.flatten() for e in episodes]).to(features.device)
    positions = features.permute(0, 2, 3, 1)
    return positions[support].movedim(-1, -3), positions[query].movedim(-1, -3)
