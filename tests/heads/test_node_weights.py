"""Node weights of DeepEMD (CVPR 2020, eq. 9 and 10) of features of both signs, against a plain loop."""

import pytest
import torch
from torch import Tensor

from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_solver
from fewshot_cli.contracts import Options, Plan, Solver
from fewshot_cli.heads.sfc import flow
from fewshot_cli.heads.shared.local import WeightedOptions, cross_reference, weigh

FLOOR = 1e-3


def one_side(features: list[list[float]], others: list[list[float]], total: int) -> list[float]:
    """Weights of one image's nodes: max(u · mean of the other image's nodes, 0) + floor, scaled to a total."""
    mean = [sum(column) / len(others) for column in zip(*others, strict=True)]
    raw = [max(sum(a * b for a, b in zip(u, mean, strict=True)), 0.0) + FLOOR for u in features]
    return [w * total / sum(raw) for w in raw]


def naive(query: Tensor, proto: Tensor) -> tuple[Tensor, Tensor]:
    """Supply [E,q,way,n] and demand [E,q,way,m] of query nodes [E,q,n,d] and class nodes [E,way,m,d], in float64."""
    n = query.shape[2]
    supply = [[[one_side(u, v, n) for v in classes] for u in queries] for queries, classes in pairs(query, proto)]
    demand = [[[one_side(v, u, n) for v in classes] for u in queries] for queries, classes in pairs(query, proto)]
    return torch.tensor(supply, dtype=torch.float64), torch.tensor(demand, dtype=torch.float64)


def pairs(query: Tensor, proto: Tensor):
    return zip(query.tolist(), proto.tolist(), strict=True)


def signed(*shape: int, seed: int = 0) -> Tensor:
    """Features of both signs, as a backbone without a last ReLU gives them."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("q", "n", "m"),
    [(3, 4, 6), (13, 40, 5)],
    ids=["few", "many"],
)
def test_node_weights_equal_the_loop(q, n, m):
    query, proto = signed(2, q, n, 8), signed(2, 3, m, 8, seed=1)
    against = torch.einsum("eqnd,ewd->eqwn", query, proto.mean(2))
    assert (against < -0.1).float().mean() > 0.2 and (against > 0.1).float().mean() > 0.2  # both signs occur often
    got, want = cross_reference(query, proto, FLOOR), naive(query, proto)
    for mine, plain in zip(got, want, strict=True):
        assert mine.shape == plain.shape
        torch.testing.assert_close(mine.double(), plain, rtol=1e-4, atol=1e-5)


def test_a_node_unlike_the_other_image_weighs_only_the_floor():
    query = torch.tensor([[[[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0]]]])
    proto = torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]])
    supply, demand = cross_reference(query, proto, 0.5)
    # max(1, 0) + 0.5, max(−1, 0) + 0.5, max(3, 0) + 0.5: together 5.5, scaled to 3
    torch.testing.assert_close(supply.flatten(), torch.tensor([1.5, 0.5, 3.5]) * 3 / 5.5)
    torch.testing.assert_close(demand.flatten(), torch.ones(3))


def test_images_that_point_apart_have_equal_weights():
    query, proto = signed(1, 2, 5, 8).abs(), -signed(1, 3, 5, 8, seed=1).abs()
    for weights in cross_reference(query, proto, FLOOR):
        torch.testing.assert_close(weights, torch.ones_like(weights))


def test_heads_weigh_their_nodes_so():
    query, proto = signed(1, 3, 4, 8), signed(1, 2, 6, 8, seed=1)
    options = WeightedOptions(floor=FLOOR)
    for mine, plain in zip(weigh(query, proto, options)[2:], naive(query, proto), strict=True):
        torch.testing.assert_close(mine.double(), plain, rtol=1e-4, atol=1e-5)


class Watched(Solver[Options]):
    """An exact solver that remembers the first problems it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.exact_solver, self.masses = build_solver(default_part("solvers", "network_simplex")), None

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        self.masses = self.masses or (supply.clone(), demand.clone())
        return self.exact_solver.solve(cost, supply, demand)


@pytest.mark.parametrize("kept", ["products", "layer"])
def test_the_compiled_fine_tuning_weighs_its_nodes_so(kept, monkeypatch):
    monkeypatch.setattr(flow, "NODES_PER_CHANNEL", 100 if kept == "products" else 0)
    layer, images, labels = signed(1, 2, 4, 8), signed(1, 4, 6, 8, seed=1), torch.tensor([0, 1, 0, 1])
    solver = Watched()
    options = {"lr": 0.1, "momentum": 0.0, "temperature": 12.5, "norm": "cosine", "weights": "cross_reference"}
    flow.learn(solver, layer, images, labels, [torch.arange(4)], **options, floor=FLOOR)
    supply, demand = naive(images, layer)
    # the layer's nodes are the rows of these problems
    for mine, plain in zip(solver.masses, (demand, supply), strict=True):
        torch.testing.assert_close(mine.double(), plain.flatten(0, 2), rtol=1e-4, atol=1e-5)
