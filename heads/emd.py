"""DeepEMD (Zhang et al., CVPR 2020): the optimal matching of local features as similarity, weights by
cross-reference.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.contracts import Matching, Solver
from fewshot_cli.heads.shared import posing
from fewshot_cli.heads.shared.local import LocalHead, Posing, WeightedOptions, cells, cosines, distances, nodes, weigh


class EMDOptions(WeightedOptions):
    """Choices of the paper and of its public code; where they differ the default is the code's."""

    shots: Literal["prototype", "nearest", "fusion"] = Field(
        "prototype", description="several shots: match their mean map, the nearest of them, or average their logits"
    )
    gradient: Literal["full", "flow"] = Field(
        "full", description="of costs and node weights, or of costs alone with the flow held fixed, as OpenCV gives it"
    )


class EMD(LocalHead[EMDOptions]):
    """Logit = T/N · Σ(1 − c_ij) x_ij with the optimal flow x between a query's and a class's local features.

    Several shots: their mean map (the start of the structured fully connected layer), EMD+NN or EMD+Fusion of Figure 4.
    """

    needs_solver = True

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        o = self.options
        logits = emd_logits(self.needed_solver, *self._sides(support, query), o)
        if o.shots == "prototype":
            return logits
        each = logits.unflatten(2, support.shape[1:3])
        return each.amax(-1) if o.shots == "nearest" else each.mean(-1)

    def _sides(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes [E,q,n,d] of the queries and [E,way,m,d] of the classes, or of all their shots."""
        o = self.options
        one = support.shape[2] == 1  # whose mean would be a copy
        maps = support.flatten(1, 2) if one or o.shots != "prototype" else support.mean(2)
        return nodes(query, o.pyramid), nodes(maps, o.pyramid)

    def pose(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The transport problems of an episode, as in `Poses`; one for each shot too where shots are matched apart."""
        return pose(*self._sides(support, query), self.options)

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of an episode's cost matrices."""
        one = super().elements(way, shot, query, positions)
        return one if self.options.shots == "prototype" else one * shot

    def match(self, left: Tensor, right: Tensor) -> Matching:
        """The optimal matching of two maps [d,h,w] (Figure 5)."""
        return match(self.needed_solver, left, right, self.options)


def match(solver: Solver, left: Tensor, right: Tensor, options: Posing) -> Matching:
    """The optimal matching of the nodes of two maps [d,h,w]."""
    query, proto = (nodes(x[None, None], options.pyramid) for x in (left, right))
    cost, supply, demand = pose(query, proto, options)
    transport.check(cost, supply, demand)
    flow = transport.solve(solver, cost, supply, demand).flow
    similarity = float(((1 - cost) * flow).sum() / supply.sum())
    places = cells((left.shape[1], left.shape[2]), options.pyramid)
    return Matching(flow[0], supply[0], demand[0], 1 - cost[0], similarity, places)


def emd_logits(
    solver: Solver, query: Tensor, proto: Tensor, options: Posing, basis: transport.Basis | None = None
) -> Tensor:
    """Logits [E,q,way] of query nodes [E,q,n,d] against class nodes [E,way,m,d]; problems run over (E, q, way)."""
    cost, supply, demand = pose(query, proto, options)
    best = transport.value(solver, cost, supply, demand, basis).unflatten(0, (*query.shape[:2], proto.shape[1]))
    # Σ(1−c)x = mass − Σcx, and the mass of either side is n
    return options.temperature * (1 - best / query.shape[2])


def pose(query: Tensor, proto: Tensor, options: Posing) -> tuple[Tensor, Tensor, Tensor]:
    """The transport problem of every pair: cost [E·q·way,n,m] (eq. 4), supply [E·q·way,n], demand [E·q·way,m]."""
    if options.weights == "cross_reference":
        posed = posing.compiled(query, proto, options.norm, options.floor)
        if posed is not None:
            return posed
    query, proto, supply, demand = weigh(query, proto, options)
    if options.gradient == "flow":
        supply, demand = supply.detach(), demand.detach()
    cost = distances(cosines(query, proto, options.norm))
    return cost.flatten(0, 2), supply.flatten(0, 2), demand.flatten(0, 2)
