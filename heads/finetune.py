"""A linear classifier fine-tuned on the support set of each episode (Chen et al., ICLR 2019: Baseline and
Baseline++).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fewshot_cli.contracts import Head, Options
from fewshot_cli.heads.shared.batches import batches


class FinetuneOptions(Options):
    """The classifier and its SGD; the defaults are those of Chen et al."""

    classifier: Literal["dot", "cosine"] = Field("dot", description="scores by dot product with bias, or by cosine")
    scale: float = Field(2.0, gt=0, le=1e6, description="factor of the cosines under classifier=cosine")
    passes: int = Field(100, ge=0, le=100_000, description="passes over the support set")
    batch: int = Field(4, ge=1, le=100_000, description="support images per step")
    lr: float = Field(0.01, gt=0, le=1000, description="learning rate of SGD")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum and dampening of SGD")
    weight_decay: float = Field(1e-3, ge=0, le=1, description="weight decay of SGD")


class Finetune(Head[FinetuneOptions]):
    """Logit of a fully connected layer on pooled features, learned from the episode's support set.

    Every episode of a batch is fine-tuned at the same time, each with its own layer, from the same random start; it is
    learned on detached features, so training the backbone through it sees the queries only (rows FC of DeepEMD's Table
    1).
    """

    support_gradient = False
    order_matters = True
    trial = {"passes": 2}

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        way, shot = support.shape[1:3]
        images = support.flatten(4).mean(-1).transpose(1, 2).flatten(1, 2)  # classes alternating
        layer, bias = self._learn(images.detach(), torch.arange(way, device=support.device).repeat(shot), way)
        return self._score(query.flatten(3).mean(-1), layer, bias)

    def _score(self, features: Tensor, layer: Tensor, bias: Tensor) -> Tensor:
        """Logits [E,p,way] of features [E,p,d] under layers [E,way,d] and biases [E,1,way]."""
        if self.options.classifier == "cosine":
            return self.options.scale * F.normalize(features, dim=-1) @ F.normalize(layer, dim=-1).mT
        return features @ layer.mT + bias

    def _learn(self, images: Tensor, labels: Tensor, way: int) -> tuple[Tensor, Tensor]:
        o, (episodes, count, d) = self.options, images.shape
        rng = torch.Generator().manual_seed(0)
        start = (2 * torch.rand(way, d + 1, generator=rng) - 1) / d**0.5  # as PyTorch starts a linear layer
        start = start.to(images)
        layer = start[:, :d].expand(episodes, -1, -1).clone().requires_grad_()
        bias = start[:, d].expand(episodes, 1, -1).clone().requires_grad_()
        learned = [layer] if o.classifier == "cosine" else [layer, bias]
        optimizer = torch.optim.SGD(
            learned, lr=o.lr, momentum=o.momentum, dampening=o.momentum, weight_decay=o.weight_decay
        )
        for pick in batches(count, o.batch, o.passes, None):
            pick = pick.to(images.device)
            with torch.enable_grad():
                logits = self._score(images[:, pick], layer, bias)
                target = labels[pick].expand(episodes, -1)
                loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum") / len(pick)
            for parameter, grad in zip(learned, torch.autograd.grad(loss, learned), strict=True):
                parameter.grad = grad
            optimizer.step()
        return layer.detach(), bias.detach()
