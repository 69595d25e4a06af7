"""The Multi-Proxy Wasserstein classifier (AAAI 2021): a class has several proxies, over which an image's
features are distributed.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli import transport
from fewshot_cli.contracts import Classifier, Options, Plan, Solver
from fewshot_cli.errors import DataError

TINY = 1e-8  # length of a feature that is zero, whose cosine with everything is then zero


def drawn(classes: int, count: int, channels: int) -> nn.Parameter:
    """Vectors [classes,count,channels] drawn like those of a linear layer, each separately: equal ones would get
    equal gradients and stay equal forever.
    """
    return nn.Parameter((2 * torch.rand(classes, count, channels) - 1) / math.sqrt(channels))


def products(features: Tensor, proxies: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products and cosines [N,classes,M,HW] of features [N,d,HW] with proxies [classes,M,d]; with episodes in
    front, of [E,N,d,HW] with [E,classes,M,d].
    """
    rows = proxies.flatten(-3, -2)
    inner = ((rows if rows.ndim == 2 else rows[:, None]) @ features).unflatten(-2, proxies.shape[-3:-1])
    lengths, others = features.norm(dim=-2).clamp(min=TINY), proxies.norm(dim=-1).clamp(min=TINY)
    return inner, inner / (lengths[..., None, None, :] * others[..., None, :, :, None])


def assign(solver: Solver, cosine: Tensor, power: float, demand: Tensor) -> Plan:
    """The plan from features of mass 1/HW to proxies of masses demand [B,M] (eq. 8), given cosines [B,HW,M].

    It carries a gradient through a solver that differentiates its plan, otherwise it is a constant.
    """
    cost = 1 - cosine
    if power != 1:
        cost = cost.clamp(min=0) ** power
    supply = cost.new_full((), 1 / cost.shape[1]).expand(cost.shape[:2])
    if solver.gradient == "autograd":
        return transport.solve(solver, cost, supply, demand)
    return transport.solve(solver, cost.detach(), supply, demand.detach())


class MultiProxyOptions(Options):
    """What the paper leaves open or varies; defaults are its own, λ and the stopping rule are the solver's options."""

    proxies: int = Field(4, ge=1, le=1024, description="M, proxies of a class")
    power: float = Field(1.0, gt=0, le=8, description="p, power of the cost 1 − cosine")
    score: Literal["inner", "cosine"] = Field(
        "inner", description="what the flow weighs: inner products (eq. 9) or cosines"
    )
    scale: float = Field(1.0, gt=0, le=1e4, description="factor of the logits; 10 to 30 go with cosines")
    marginals: Literal["uniform", "learned"] = Field(
        "uniform", description="masses of a class's proxies; features weigh the same"
    )
    init: Literal["linear", "randn"] = Field(
        "linear", description="proxies drawn like a linear layer's weights, or from a normal distribution"
    )


class MultiProxy(Classifier[MultiProxyOptions]):
    """Logit of a class = Σ_jm T_jm <x_j, p_m> with the flow T between an image's features and the class's proxies (eq.
    8, 9).

    The flow minimises Σ T_jm (1 − cos(x_j, p_m))^p with features of mass 1/HW and proxies of mass 1/M, by the recipe's
    solver: `sinkhorn` with regularisation 0.1, stop=change, tolerance 0.1 is the paper's. Through a solver whose plan
    carries a gradient the flow is differentiated too, otherwise it is a constant. maps [N,d,h,w] → logits [N,classes],
    in single precision.
    """

    needs_solver = True

    def __init__(
        self, options: MultiProxyOptions | None = None, *, channels: int, classes: int, solver: Solver
    ) -> None:
        super().__init__(options, channels=channels, classes=classes, solver=solver)
        self.proxies = drawn(classes, self.options.proxies, channels)
        if self.options.init == "randn":
            nn.init.normal_(self.proxies)
        self.masses = (
            nn.Parameter(torch.zeros(classes, self.options.proxies)) if self.options.marginals == "learned" else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        """As the class says."""
        flow, weighed = self._weighed(maps)
        return self.options.scale * (flow * weighed).sum((2, 3))

    def matched(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The flow [N,classes,HW,M] of maps [N,d,h,w] to the proxies, and what each proxy adds to the class's logit
        [N,classes,M].
        """
        flow, weighed = self._weighed(maps)
        return flow, self.options.scale * (flow * weighed).sum(2)

    def _weighed(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The flow and what it weighs, both [N,classes,HW,M]; problems run over (N, classes)."""
        with torch.autocast(maps.device.type, enabled=False):
            inner, cosine = self.products(maps.float())
            flow = self.flow(cosine).flow.unflatten(0, inner.shape[:2])
        return flow, inner if self.options.score == "inner" else cosine

    def multiply_adds(self, positions: int) -> int:
        """Every position with every proxy."""
        return positions * self.proxies.numel()

    def products(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Inner products and cosines [N,classes,HW,M] of maps [N,d,h,w] with the proxies."""
        inner, cosine = products(maps.flatten(2), self.proxies)
        return inner.mT, cosine.mT

    def flow(self, cosine: Tensor) -> Plan:
        """The plan of every image and class, of cosines [N,classes,HW,M]: flow [N·classes,HW,M]."""
        count, classes, _, proxies = cosine.shape
        if self.masses is None:
            demand = cosine.new_full((), 1 / proxies).expand(count * classes, proxies)
        else:
            demand = self.masses.softmax(1).expand(count, -1, -1).flatten(0, 1)
        return assign(self.needed_solver, cosine.flatten(0, 1), self.options.power, demand)


class MultiLinearOptions(Options):
    """How many linear layers and how they are combined."""

    proxies: int = Field(4, ge=1, le=1024, description="linear layers, M vectors of a class")
    combine: Literal["average", "cosine"] = Field(
        "average",
        description="logits averaged (Multi-FC Average), or each product weighed by its cosine "
        "(Multi-FC Cosine, eq. 7)",
    )


class MultiLinear(Classifier[MultiLinearOptions]):
    """Several linear layers without a matching (rows Multi-FC of the paper's Table 4): maps [N,d,h,w] → logits
    [N,classes].

    `average`: the mean of all products, one linear layer in other words. `cosine`: Σ c_jm <x_j, p_m> / (HW·M).
    """

    def __init__(self, options: MultiLinearOptions | None = None, *, channels: int, classes: int) -> None:
        super().__init__(options, channels=channels, classes=classes)
        self.proxies = drawn(classes, self.options.proxies, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """As the class says."""
        features = maps.flatten(2)
        if self.options.combine == "average":
            return features.mean(2) @ self.proxies.mean(1).T
        inner, cosine = products(features, self.proxies)
        return (cosine * inner).mean((2, 3))

    def multiply_adds(self, positions: int) -> int:
        """Every position with every vector; their mean is one layer."""
        return self.proxies[:, 0].numel() if self.options.combine == "average" else positions * self.proxies.numel()


class FlattenOptions(Options):
    """The size of the maps, which decides how many weights there are."""

    positions: int = Field(64, ge=1, le=100_000, description="h·w of the backbone's map")


class Flatten(Classifier[FlattenOptions]):
    """A linear layer on all positions, a vector for each class and place (Multi-FC Flatten): [N,d,h,w] →
    [N,classes].
    """

    trial = {"positions": 4}

    def __init__(self, options: FlattenOptions | None = None, *, channels: int, classes: int) -> None:
        super().__init__(options, channels=channels, classes=classes)
        self.layer = nn.Linear(channels * self.options.positions, classes)

    def forward(self, maps: Tensor) -> Tensor:
        """As the class says. Raises `DataError` for maps of another size."""
        if maps.shape[2] * maps.shape[3] != self.options.positions:
            raise DataError(
                f"pretrain.classifier.positions: is {self.options.positions}, the backbone's map has "
                f"{maps.shape[2]}×{maps.shape[3]} positions; write positions: {maps.shape[2] * maps.shape[3]}"
            )
        return self.layer(maps.flatten(1))


class Bilinear(Classifier[Options]):
    """Second moments of the features (Lin et al. 2015): X·Xᵀ/HW, signed root, length one, linear: [N,d,h,w] →
    [N,classes].
    """

    def __init__(self, options: Options | None = None, *, channels: int, classes: int) -> None:
        super().__init__(options, channels=channels, classes=classes)
        self.layer = nn.Linear(channels**2, classes)

    def forward(self, maps: Tensor) -> Tensor:
        """As the class says."""
        features = maps.flatten(2)
        return self.layer(rooted((features @ features.mT / features.shape[2]).flatten(1)))

    def multiply_adds(self, positions: int) -> int:
        """The layer, and the products of all channels."""
        return super().multiply_adds(positions) + positions * self.layer.in_features


class AttentionOptions(Options):
    """The attention maps of WS-DAN."""

    maps: int = Field(32, ge=1, le=4096, description="attention maps")


class Attention(Classifier[AttentionOptions]):
    """Features pooled under several attention maps, as in WS-DAN (Hu et al. 2019) without its augmentation and centre
    loss.

    Attention maps are a 1×1 convolution with batch norm and ReLU; what each pools is put in a row, signed root, length
    one, linear: maps [N,d,h,w] → logits [N,classes].
    """

    def __init__(self, options: AttentionOptions | None = None, *, channels: int, classes: int) -> None:
        super().__init__(options, channels=channels, classes=classes)
        self.attend = nn.Sequential(
            nn.Conv2d(channels, self.options.maps, 1, bias=False), nn.BatchNorm2d(self.options.maps), nn.ReLU()
        )
        self.layer = nn.Linear(channels * self.options.maps, classes)

    def forward(self, maps: Tensor) -> Tensor:
        """As the class says."""
        weights = self.attend(maps).flatten(2)
        return self.layer(rooted((weights @ maps.flatten(2).mT / weights.shape[2]).flatten(1)))

    def multiply_adds(self, positions: int) -> int:
        """The layer, the attention maps, and pooling under them."""
        return super().multiply_adds(positions) + 2 * positions * self.layer.in_features


def rooted(x: Tensor) -> Tensor:
    """Rows [N,D] with the signed root of each value, of length one; the root's slope at zero is kept finite."""
    return F.normalize(x.sign() * (x.abs() + 1e-12).sqrt(), dim=1)
