"""CrossTransformers (CTX; Doersch, Gupta and Zisserman, NeurIPS 2020): prototypes aligned with each query by
attention.
"""

import math

from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Head, Options, Solver


class CTXOptions(Options):
    """Widths of the projections."""

    keys: int = Field(128, ge=1, le=65536, description="width of keys, of query and support alike")
    values: int = Field(128, ge=1, le=65536, description="width of values, which are compared")


class CTX(Head[CTXOptions]):
    """Logit = −mean over positions of ‖t − v‖², v being the query's value and t the class's prototype for that
    position.

    t is the average of the values at all k·h·w support positions of the class, weighted by the softmax of the products
    of their keys with the query's, over √(width of keys). Keys are one linear map of the channels and values another,
    without bias; query and support share both.
    """

    def __init__(self, options: CTXOptions | None = None, *, channels: int, solver: Solver | None = None) -> None:
        super().__init__(options, channels=channels, solver=solver)
        self.keys = nn.Linear(channels, self.options.keys, bias=False)
        self.values = nn.Linear(channels, self.options.values, bias=False)
        for layer in (self.keys, self.values):
            nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)  # as in the public code

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        support = support.flatten(4).mT.flatten(2, 3)  # [E, way, k·r, d]
        q, query = query.shape[1], query.flatten(3).mT.flatten(1, 2)  # [E, q·r, d]
        products = (self.keys(support).flatten(1, 2) @ self.keys(query).mT).unflatten(1, support.shape[1:3])
        attention = (products / math.sqrt(self.options.keys)).softmax(2)  # [E, way, k·r, q·r]
        aligned = self.values(support).mT @ attention  # [E, way, values, q·r]
        error = (aligned - self.values(query).mT[:, None]).square().sum(2)
        return -error.unflatten(2, (q, -1)).mean(-1).mT

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of an episode's attention, aligned prototypes or projected maps, whichever are most."""
        o = self.options
        aligned = way * way * query * positions * max(shot * positions, o.values)
        return max(aligned, way * max(shot, query) * positions * max(o.keys, o.values))
