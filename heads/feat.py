"""FEAT (Ye et al., CVPR 2020): prototypes adapted to their task by a transformer over the set of classes."""

import math
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Head, HeadLayout, Options, Solver


class FEATOptions(Options):
    """How prototypes and queries are compared, and how much is dropped in training."""

    similarity: Literal["squared_euclidean", "cosine"] = Field(
        "squared_euclidean",
        description="minus the squared distance (paper), or the product with the unit-length prototype (code)",
    )
    temperature: float = Field(64.0, gt=0, le=1e6, description="divides the logits")
    dropout: float = Field(0.5, ge=0, lt=1, description="of what the attention adds to a prototype")
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="of the attention itself")


class FEAT(Head[FEATOptions]):
    """Logit = −‖q − p'‖² / temperature on pooled features, p' being the class's prototype after attending to all of
    them.

    p' = LayerNorm(p + W softmax(QKᵀ/√d) V) with queries, keys and values Q, K, V linear in the prototypes of the task
    (one head). The loss that pulls a class's adapted images together is not part of a head's output and is left out.
    """

    layouts = (
        HeadLayout(
            "FEAT's attention",
            {
                "slf_attn.w_qs.weight": "queries.weight",
                "slf_attn.w_ks.weight": "keys.weight",
                "slf_attn.w_vs.weight": "values.weight",
                "slf_attn.fc.weight": "out.weight",
                "slf_attn.fc.bias": "out.bias",
                "slf_attn.layer_norm.weight": "norm.weight",
                "slf_attn.layer_norm.bias": "norm.bias",
            },
        ),
    )

    def __init__(self, options: FEATOptions | None = None, *, channels: int, solver: Solver | None = None) -> None:
        super().__init__(options, channels=channels, solver=solver)
        self.queries, self.keys, self.values = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.out = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        for layer in (self.queries, self.keys, self.values, self.out):
            nn.init.xavier_normal_(layer.weight)

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        query = query.flatten(3).mean(-1)
        prototype = self.adapt(support.flatten(4).mean(-1).mean(2))
        if self.options.similarity == "cosine":
            return query @ F.normalize(prototype, dim=-1).mT / self.options.temperature
        squares = query.square().sum(-1, keepdim=True) + prototype.square().sum(-1)[:, None]
        return (2 * query @ prototype.mT - squares) / self.options.temperature

    def adapt(self, prototype: Tensor) -> Tensor:
        """Prototypes [E,way,d] after attending to those of their episode."""
        o = self.options
        products = self.queries(prototype) @ self.keys(prototype).mT
        attention = F.dropout((products / math.sqrt(self.channels)).softmax(-1), o.attention_dropout, self.training)
        added = self.out(attention @ self.values(prototype))
        return self.norm(prototype + F.dropout(added, o.dropout, self.training))

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of an episode's logits; nothing else is more than its maps."""
        return way * way * query
