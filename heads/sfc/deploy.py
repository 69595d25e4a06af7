"""The structured fully connected layer without a solver, to be exported: entropic matching in plain operations."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_cli.heads.shared.local import Posing, nodes, normal, to_total

EPSILONS = (1.0, 0.3, 0.1, 0.03, 0.01)  # relative to costs of at most 2
SWEEPS = 20  # at each of them


class EntropicMatching(nn.Module):
    """maps [N,d,h,w] → logits [N,way] under a learned layer [way,n,d], by Sinkhorn's iterations in logarithms with a
    falling ε. What it gives lies near the exact solver's logits: the plan is spread by ε = 0.01 at the end.
    """

    layer: Tensor

    def __init__(self, layer: Tensor, options: Posing) -> None:
        super().__init__()
        self.register_buffer("layer", layer.clone())
        self.options = options

    def forward(self, maps: Tensor) -> Tensor:
        """Logits [N,way] of maps [N,d,h,w]."""
        query = nodes(maps, self.options.pyramid)  # [N,n,d]
        cost, supply, demand = self._pose(query)
        log_supply, log_demand = supply.log(), demand.log()
        rows, columns = torch.zeros_like(supply), torch.zeros_like(demand)
        for epsilon in EPSILONS:
            for _ in range(SWEEPS):
                rows = epsilon * (log_supply - ((columns[:, None] - cost) / epsilon).logsumexp(2))
                columns = epsilon * (log_demand - ((rows[:, :, None] - cost) / epsilon).logsumexp(1))
        plan = ((rows[:, :, None] + columns[:, None] - cost) / epsilon).exp()
        value = (plan * cost).sum((1, 2)).unflatten(0, (-1, self.layer.shape[0]))
        return self.options.temperature * (1 - value / query.shape[1])

    def _pose(self, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `emd.pose` makes of query nodes [N,n,d], without its choices by the batch's size: cost [N·way,n,m]."""
        way, count, channels = self.layer.shape
        flat = self.layer.reshape(way * count, channels)
        cosines = normal(query, self.options.norm) @ normal(flat, self.options.norm).mT
        cost = 1 - cosines.unflatten(2, (way, count)).transpose(1, 2)  # [N,way,n,m]
        if self.options.weights == "equal":
            return (
                cost.flatten(0, 1),
                torch.ones_like(cost[..., 0]).flatten(0, 1),
                torch.ones_like(cost[:, :, 0]).flatten(0, 1),
            )
        to_layer = (query @ self.layer.mean(1).mT).mT  # [N,way,n]
        to_query = (query.mean(1) @ flat.mT).unflatten(1, (way, count))
        supply, demand = (to_total(F.relu(x) + self.options.floor, query.shape[1]) for x in (to_layer, to_query))
        return cost.flatten(0, 1), supply.flatten(0, 1), demand.flatten(0, 1)
