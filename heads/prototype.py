"""Prototypical networks (Snell et al. 2017): distance to the mean of a class's support features."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

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
        if self.options.pool == "gap":
            support, query = support.flatten(4).mean(-1), query.flatten(3).mean(-1)
        else:
            support, query = support.flatten(3), query.flatten(2)
        prototype = support.mean(2)
        if self.options.distance == "cosine":
            return self.options.scale * F.normalize(query, dim=-1) @ F.normalize(prototype, dim=-1).mT
        # ‖q−p‖² = ‖q‖² − 2q·p + ‖p‖²; the query's own norm is kept so that the logit is the distance itself
        squares = query.square().sum(-1, keepdim=True) + prototype.square().sum(-1).unsqueeze(1)
        return -self.options.scale * (squares - 2 * query @ prototype.mT)
