"""The Multi-Proxy Wasserstein classifier (AAAI 2021) on a support set: a class of an episode has a few proxies, found
in it.
"""

from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from fewshot_cli.contracts import Head, Options
from fewshot_cli.errors import DataError
from fewshot_cli.heads.classifiers.multi_proxy import assign, products
from fewshot_cli.heads.shared.batches import batches
from fewshot_cli.heads.shared.local import nodes


def _learning(default: Any, **rules: Any) -> Any:
    """An option for finding proxies, which is not needed once they are found."""
    return Field(default, json_schema_extra={"learning": True}, **rules)


class ProxiesOptions(Options):
    """What the classifier leaves open, and how its proxies are found in a support set, which the paper does not treat.

    The paper's own values are score=inner, scale=1, norm=cosine; λ and the stopping rule are the solver's options.
    """

    proxies: int = _learning(4, ge=1, le=1024, description="M, proxies per class; with fewer features some repeat")
    power: float = Field(1.0, gt=0, le=8, description="p, power of the cost 1 − cosine")
    score: Literal["cosine", "inner"] = Field(
        "cosine",
        description="what the flow weighs: cosines, or inner products (eq. 9), which favour long features",
    )
    scale: float = Field(
        12.5,
        gt=0,
        le=1e6,
        description="factor of the logits, without which cosines are too flat to learn from; inner: about 1",
    )
    norm: Literal["center", "cosine"] = Field(
        "center",
        description="features minus their mean over channels, as in DeepEMD's code, or as they are (paper)",
    )
    init: Literal["kmeans", "linear"] = _learning(
        "kmeans", description="start: clusters of the class's features, or drawn like a linear layer's weights"
    )
    rounds: int = _learning(10, ge=1, le=1000, description="most rounds of k-means")
    masses: Literal["uniform", "sizes"] = _learning(
        "uniform", description="masses of a class's proxies: the same (eq. 8), or what its clusters hold"
    )
    passes: int = _learning(
        50, ge=0, le=100_000, description="passes over the support set; 0 leaves proxies as they start"
    )
    batch: int | None = _learning(None, ge=1, le=100_000, description="support images per step (default: all)")
    lr: float = _learning(0.3, gt=0, le=1e6, description="learning rate of SGD")
    momentum: float = _learning(0.9, ge=0, lt=1, description="momentum and dampening of SGD")
    weight_decay: float = _learning(0.0, ge=0, le=1, description="weight decay of SGD")

    @model_validator(mode="after")
    def _useful(self) -> Self:
        if self.init == "linear" and (self.passes == 0 or self.masses == "sizes"):
            why = (
                "masses: sizes are those of clusters"
                if self.passes
                else "passes: 0 leaves drawn proxies knowing nothing"
            )
            raise ValueError(f"{why}; leave init at kmeans, or give {'masses: uniform' if self.passes else 'passes'}")
        return self


class Proxies(Head[ProxiesOptions]):
    """Logit of a class = scale · Σ_jm T_jm cos(x_j, p_m) with the flow T between a query's features and the class's
    proxies.

    T minimises Σ T_jm (1 − cos(x_j, p_m))^p with features 1/HW and proxies 1/M heavy, as in `multi_proxy` (eq. 8, 9).
    The paper's proxies are weights learned from a large training set; here they start as the spherical k-means of all
    local features of a class's shots and are fine-tuned on the support set by SGD, every episode of a batch at the same
    time. A gradient reaches the support features through the means of the clusters; which features these hold and what
    fine-tuning adds are constants to it. With cosines and p = 1 a logit is scale · (1 − a linear program's optimum),
    whose gradient takes the flow for a constant, so an exact solver without gradients gives it too.
    """

    needs_solver = True
    trial = {"passes": 5}

    @property
    def order_matters(self) -> bool:  # type: ignore[override]
        """Whether its steps take a few of the support images each, or its proxies start as random numbers."""
        return self.options.init == "linear" or (self.options.passes > 0 and self.options.batch is not None)

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        way, shot = support.shape[1:3]
        images = support.transpose(1, 2).flatten(1, 2)  # classes alternating
        return self.score(self.learn(images, torch.arange(way).repeat(shot)), query)

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of an episode's products of features and proxies, of its queries or, while learning, of its support
        set.
        """
        return way * way * max(query, shot) * positions * self.options.proxies

    def learn(self, images: Tensor, labels: Tensor) -> Tensor:
        """Proxies and after each its mass [E,way,M,d+1] of maps [E,P,d,h,w] with labels [P], the same in every episode.

        Classes may have different numbers of images.
        """
        o, labels, features = self.options, labels.to(images.device), self._features(images)
        way = int(labels.max()) + 1
        if o.init == "linear":
            draw = torch.rand(way, o.proxies, self.channels, generator=torch.Generator().manual_seed(0))
            start = ((2 * draw - 1) / self.channels**0.5).to(features).expand(len(features), -1, -1, -1)
        else:
            clusters = [self._clusters(features[:, labels == c].flatten(1, 2)) for c in range(way)]
            start, masses = (torch.stack(x, 1) for x in zip(*clusters, strict=True))
        if o.masses == "uniform":
            masses = start.new_full(start.shape[:3], 1 / o.proxies)
        learned = start
        if o.passes:
            learned = start + (self._tuned(start.detach(), masses, features.detach(), labels) - start).detach()
        return torch.cat([learned, masses[..., None]], -1)

    def score(self, layer: Tensor, query: Tensor) -> Tensor:
        """Logits [E,q,way] of maps [E,q,d,h,w] under proxies and masses [E,way,M,d+1]."""
        return self._logits(self._features(query), layer[..., :-1], layer[..., -1])

    def _features(self, maps: Tensor) -> Tensor:
        """Local features [E,N,n,d] of maps [E,N,d,h,w], centred if the options say so: zero where all channels are the
        same.
        """
        x = nodes(maps)
        if self.options.norm != "center":
            return x
        centred = x - x.mean(-1, keepdim=True)
        squares = centred.detach().square().sum(-1, keepdim=True)
        return centred.masked_fill(squares <= 1e-10 * x.detach().square().sum(-1, keepdim=True), 0)

    def _logits(self, features: Tensor, proxies: Tensor, masses: Tensor) -> Tensor:
        """Logits [E,N,way] of features [E,N,n,d] under proxies [E,way,M,d] with masses [E,way,M]."""
        o = self.options
        inner, cosine = (x.mT for x in products(features.mT, proxies))  # [E,N,way,n,M]
        if not torch.isfinite(cosine.detach().sum()):
            raise DataError("head proxies: NaN or infinite features or proxies; check the weights, or lower head.lr")
        demand = masses[:, None].expand(-1, features.shape[1], -1, -1).flatten(0, 2)
        flow = assign(self.needed_solver, cosine.flatten(0, 2), o.power, demand).flow.view_as(cosine)
        return o.scale * (flow * (cosine if o.score == "cosine" else inner)).sum((3, 4))

    def _clusters(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Proxies [E,M,d] and shares [E,M] of the clusters of features [E,N,d]; cosines weigh directions only, so that
        lengths count under inner products alone.
        """
        unit = F.normalize(features, dim=2)
        labels, first = kmeans(unit, self.options.proxies, self.options.rounds)
        means, sizes = mean_of(unit if self.options.score == "cosine" else features, labels, first)
        return means, sizes / features.shape[1]

    def _tuned(self, start: Tensor, masses: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Proxies [E,way,M,d] after SGD on the cross-entropy of support features [E,P,n,d] with labels [P]."""
        o, layer = self.options, start.clone().requires_grad_()
        optimizer = torch.optim.SGD(
            [layer], lr=o.lr, momentum=o.momentum, dampening=o.momentum, weight_decay=o.weight_decay
        )
        for pick in batches(len(labels), o.batch or len(labels), o.passes, None):
            pick = pick.to(features.device)
            with torch.enable_grad():
                logits = self._logits(features[:, pick], layer, masses)
                target = labels[pick].expand(len(layer), -1)
                loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum") / len(pick)
            (layer.grad,) = torch.autograd.grad(loss, layer)
            optimizer.step()
        return layer.detach()


@torch.no_grad()
def kmeans(unit: Tensor, count: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Spherical k-means (Dhillon and Modha 2001) of each set of features [B,N,d] of length one: the cluster of each
    [B,N], and the features that clusters began with [B,count].

    Every round assigns a feature to the nearest direction and moves that to the mean; Σ cos never falls. An empty
    cluster stays at its first feature. The order of features decides nothing but ties.
    """
    first = farthest(unit, count)
    centres, labels = rows(unit, first), torch.full(unit.shape[:2], -1, device=unit.device)
    for _ in range(rounds):
        before, labels = labels, (unit @ F.normalize(centres, dim=2).mT).argmax(2)
        if torch.equal(before, labels):
            break
        centres = mean_of(unit, labels, first)[0]
    return labels, first


def farthest(unit: Tensor, count: int) -> Tensor:
    """Indices [B,count]: the feature of [B,N,d] nearest to the mean, then each time the farthest from all before it.

    A feature of zero has no direction and comes last.
    """
    nowhere = unit.square().sum(2) == 0
    near = (unit @ unit.mean(1)[:, :, None])[:, :, 0].masked_fill(nowhere, -torch.inf)
    picks, seen = [near.argmax(1)], near.new_full((), -torch.inf).masked_fill(nowhere, torch.inf)
    for _ in range(count - 1):
        seen = torch.maximum(seen, (unit @ rows(unit, picks[-1][:, None]).mT)[:, :, 0])
        picks.append(seen.argmin(1))
    return torch.stack(picks, 1)


def mean_of(features: Tensor, labels: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Means [B,M,d] of the features [B,N,d] of each cluster, and their numbers [B,M]; for an empty one, its
    first.
    """
    member = F.one_hot(labels, first.shape[1]).to(features)
    sizes = member.sum(1)
    means = member.mT @ features / sizes.clamp(min=1)[:, :, None]
    return torch.where(sizes[:, :, None] > 0, means, rows(features, first)), sizes


def rows(features: Tensor, index: Tensor) -> Tensor:
    """Features [B,M,d] at index [B,M] of [B,N,d]."""
    return features.gather(1, index[:, :, None].expand(-1, -1, features.shape[2]))
