"""Matching networks (Vinyals et al. 2016) without context embeddings: attention by cosine over the support images."""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fewshot_cli.contracts import Head, Options


class MatchingOptions(Options):
    """How sharp the attention is."""

    temperature: float = Field(12.5, gt=0, le=1e6, description="factor of the cosines; the paper of 2016 has 1")


class MatchingNet(Head[MatchingOptions]):
    """Logit = log Σ_shots exp(T·cos(query, support)) on pooled features: at one shot T times the cosine.

    Its softmax over classes is the attention-weighted vote of the support images (Vinyals et al. 2016, eq. 1).
    """

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        support, query = support.flatten(4).mean(-1), query.flatten(3).mean(-1)
        cosine = F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).flatten(1, 2).mT
        return (self.options.temperature * cosine).unflatten(2, support.shape[1:3]).logsumexp(-1)
