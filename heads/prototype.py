"""Prototypical networks (Snell et al. 2017): distance to the mean of a class's support features."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Head, Options


class PrototypeOptions(Options):
    """How maps become vectors and vectors are compared."""

    distance: Literal["squared_euclidean", "cosine"] = "squared_euclidean"
    pool: Literal["gap", "flatten"] = Field("gap", description="mean over positions, or all positions in a row")
    scale: float = Field(1.0, gt=0, le=1e6, description="factor of the logits; matters in training only")


class Prototype(Head[PrototypeOptions]):
    """Logit = −scale·‖query − prototype‖² or scale·cos(query, prototype); the prototype is the support's mean."""

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        support, query = self._vectors(support), self._vectors(query)
        return self._logits(support.mean(2), query)

    def _vectors(self, maps: Tensor) -> Tensor:
        """Vectors [...,D] of maps [...,d,h,w]."""
        return maps.flatten(-2).mean(-1) if self.options.pool == "gap" else maps.flatten(-3)

    def _logits(self, prototype: Tensor, query: Tensor) -> Tensor:
        """Logits [...,q,way] of query vectors [...,q,D] and prototypes [...,way,D]."""
        if self.options.distance == "cosine":
            return self.options.scale * F.normalize(query, dim=-1) @ F.normalize(prototype, dim=-1).mT
        # ‖q−p‖² = ‖q‖² − 2q·p + ‖p‖²; the query's own norm is kept so that the logit is the distance itself
        squares = query.square().sum(-1, keepdim=True) + prototype.square().sum(-1).unsqueeze(-2)
        return -self.options.scale * (squares - 2 * query @ prototype.mT)

    def deployed(self, maps: Tensor, labels: Tensor) -> nn.Module:
        """As `Deploys`: the classes' prototypes."""
        vectors = self._vectors(maps)
        means = torch.stack([vectors[labels == c].mean(0) for c in range(int(labels.max()) + 1)])
        return _Deployed(self, means)


class _Deployed(nn.Module):
    """maps [N,d,h,w] → logits [N,way] by fixed prototypes [way,D]."""

    prototypes: Tensor

    def __init__(self, head: Prototype, prototypes: Tensor) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("prototypes", prototypes.clone())

    def forward(self, maps: Tensor) -> Tensor:
        return self.head._logits(self.prototypes, self.head._vectors(maps))
