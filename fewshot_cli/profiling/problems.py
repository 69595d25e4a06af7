"""Transport problems to test and to time solvers with: DeepEMD's own kind, and the degenerate ones."""

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_head
from fewshot_cli.contracts import Plan, Solver

Problems = tuple[Tensor, Tensor, Tensor]  # cost [B,n,m], supply [B,n], demand [B,m]


class _Witness(Solver):
    """Keeps the problems a head poses instead of solving them."""

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        self.problems = (cost, supply, demand)
        count = torch.zeros(len(cost), dtype=torch.int64)
        return Plan(torch.zeros_like(cost), None, None, count, count == 0)


def posed(support: Tensor, query: Tensor) -> Problems:
    """What the emd head asks a solver: support [E,way,shot,d,h,w], query [E,q,d,h,w] → B = E·q·way problems."""
    head = build_head(default_part("heads", "emd"), support.shape[3], default_part("solvers", "network_simplex"))
    head.solver = _Witness()
    with torch.no_grad(), transport.ledger():
        head(support, query)
    return head.solver.problems


def generated(n: int, m: int, batch: int = 375, seed: int = 0) -> Problems:
    """DeepEMD's problems on invented features: 640-channel ReLU maps with class structure, 5-way 1-shot, 75 queries."""
    rng = torch.Generator().manual_seed(seed)
    common, classes = torch.randn(1, 640, 1, 1, generator=rng), torch.randn(5, 640, 1, 1, generator=rng)

    def maps(per_class: int, positions: int) -> Tensor:
        own = torch.randn(5, per_class, 640, 1, positions, generator=rng)
        return (own + 0.5 * classes[:, None] + common).relu()

    parts, have = [], 0
    while have < batch:
        queries = min(15, -(-(batch - have) // 25))
        parts.append(posed(maps(1, m)[None], maps(queries, n).flatten(0, 1)[None]))
        have += 25 * queries
    return tuple(torch.cat(x)[:batch] for x in zip(*parts, strict=True))


def from_features(features: Tensor, labels: Tensor, n: int, m: int, batch: int = 375, seed: int = 0) -> Problems:
    """DeepEMD's problems on real features [N,d,h,w] with labels [N]: 5-way episodes, n query and m class nodes.

    A side's nodes are the first positions of as many pictures of a class as that takes.
    """
    rng = torch.Generator().manual_seed(seed)
    flat = features.cpu().float().flatten(2)
    known = labels.unique()
    way = min(5, len(known))

    def side(chosen: Tensor, sets: int, nodes: int) -> Tensor:
        """[way·sets, d, 1, nodes]"""
        rows, pictures = [], -(-nodes // flat.shape[2])
        for c in chosen.tolist():
            own = torch.nonzero(labels == c).flatten()
            for _ in range(sets):
                pick = own[torch.randint(len(own), (pictures,), generator=rng)]
                rows.append(flat[pick].transpose(0, 1).reshape(flat.shape[1], 1, -1)[..., :nodes])
        return torch.stack(rows)

    parts, have = [], 0
    while have < batch:
        chosen = known[torch.randperm(len(known), generator=rng)[:way]]
        queries = min(15, -(-(batch - have) // way**2))
        parts.append(posed(side(chosen, 1, m).unflatten(0, (1, way, 1)), side(chosen, queries, n)[None]))
        have += queries * way * way
    return tuple(torch.cat(x)[:batch] for x in zip(*parts, strict=True))
