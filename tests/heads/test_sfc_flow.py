"""The compiled fine-tuning of the structured fully connected layer against a plain loop of PyTorch's SGD in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_solver
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.errors import DataError
from fewshot_cli.heads.sfc import flow as sfc_flow
from fewshot_cli.heads.sfc import kernel

EPISODES, WAY, D = 3, 3, 20
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 2])
CODE = {"temperature": 12.5, "norm": "center", "weights": "cross_reference", "floor": 1e-3, "momentum": 0.9, "lr": 1.0}


@pytest.fixture(autouse=True)
def _one_thread():
    """The plain loop's operations are too small for two, which would wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def solver(name="network_simplex"):
    return build_solver(default_part("solvers", name))


def features(n=18, m=18, seed=0):
    """Layer [E,way,m,d] and images [E,P,n,d], these as maps lie in memory, whose classes differ."""
    rng = torch.Generator().manual_seed(seed)
    classes, common = torch.randn(EPISODES, WAY, D, 1, generator=rng), torch.randn(D, 1, generator=rng)
    images = (torch.randn(EPISODES, len(LABELS), D, n, generator=rng) + 0.5 * classes[:, LABELS] + common).relu().mT
    return torch.rand(EPISODES, WAY, m, D, generator=rng) + classes.mT, images


def steps(sweeps=4, batch=3):
    """8 images in batches of 3: the last of a sweep has 2."""
    rng = np.random.default_rng(0)
    return [pick for _ in range(sweeps) for pick in torch.from_numpy(rng.permutation(len(LABELS))).split(batch)]


def plain(solve, start, images, orders, *, lr, momentum, temperature, norm, weights, floor):
    """The same in float64 by automatic differentiation, with flow and node weights as constants."""
    layer, images = start.double().clone().requires_grad_(), images.double()
    optimizer = torch.optim.SGD([layer], lr=lr, momentum=momentum, dampening=momentum)
    n = images.shape[2]

    def unit(x):
        return F.normalize(x - x.mean(-1, keepdim=True) if norm == "center" else x, dim=-1)

    for pick in orders:
        cosine = torch.einsum("epid,ekjd->epkij", unit(images[:, pick]), unit(layer))
        supply, demand = torch.ones_like(cosine[..., 0]), torch.ones_like(cosine[..., 0, :])
        if weights == "cross_reference":
            raw = torch.einsum("epid,ekjd->epkij", images[:, pick], layer.detach())
            supply, demand = raw.mean(4).relu() + floor, raw.mean(3).relu() + floor
        supply, demand = (x * n / x.sum(-1, keepdim=True) for x in (supply, demand))
        cost = (1 - cosine.detach()).flatten(0, 2)
        flow = solve.solve(cost, supply.detach().flatten(0, 2), demand.detach().flatten(0, 2)).flow
        logits = temperature / n * (cosine * flow.view(-1, *cosine.shape[1:])).sum((3, 4))
        target = LABELS[pick].repeat(len(layer))
        optimizer.zero_grad()
        (F.cross_entropy(logits.flatten(0, 1), target, reduction="sum") / len(pick)).backward()
        optimizer.step()
    return layer.detach()


def same(got, want, start, tolerance):
    """Whether they differ by no more than a share of what was learned, and something was."""
    moved = (want - start).abs().amax()
    return got.dtype == torch.float32 and moved > 0.1 and (got - want).abs().amax() < tolerance * moved


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weights", ["cross_reference", "equal"])
@pytest.mark.parametrize("norm", ["center", "cosine"])
@pytest.mark.parametrize("kept", ["products", "layer"])
def test_learning_equals_plain_sgd(kept, norm, weights, momentum, monkeypatch):
    monkeypatch.setattr(sfc_flow, "NODES_PER_CHANNEL", 100 if kept == "products" else 0)
    start, images = features(m=7)
    options = CODE | {"norm": norm, "weights": weights, "momentum": momentum}
    want = plain(solver(), start, images, steps(), **options)
    assert same(sfc_flow.learn(solver(), start, images, LABELS, steps(), **options), want, start, 2e-5)


@pytest.mark.parametrize("kept", ["products", "layer"])
def test_many_steps_do_not_add_up_rounding(kept, monkeypatch):
    monkeypatch.setattr(sfc_flow, "NODES_PER_CHANNEL", 100 if kept == "products" else 0)
    start, images = features(9, 9)
    orders = steps(20)
    want = plain(solver(), start, images, orders, **CODE)
    assert same(sfc_flow.learn(solver(), start, images, LABELS, orders, **CODE), want, start, 1e-4)


@pytest.mark.parametrize("name", ["pot", "opencv"])
def test_any_exact_solver_will_do(name):
    start, images = features(6, 6)
    want = sfc_flow.learn(solver(), start, images, LABELS, steps(), **CODE)
    assert same(sfc_flow.learn(solver(name), start, images, LABELS, steps(), **CODE), want, start, 1e-3)


class Everywhere(Solver):
    """Ships from every node to every node, which fills the lists kept for several steps after a few."""

    warm_start = True

    def solve(self, cost, supply, demand, basis=None):
        assert bool(torch.isfinite(cost).all())
        flow = supply[:, :, None] * demand[:, None] / supply.sum(1)[:, None, None]
        return Plan(
            flow, None, None, torch.zeros(len(cost), dtype=torch.int64), torch.ones(len(cost), dtype=torch.bool)
        )


def test_flows_may_be_dense_and_come_without_trees():
    start, images = features(10, 10)
    want = plain(Everywhere(), start, images, steps(9), **CODE)
    assert same(sfc_flow.learn(Everywhere(), start, images, LABELS, steps(9), **CODE), want, start, 2e-5)


@pytest.mark.parametrize("weights", ["cross_reference", "equal"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(weights, bad):
    for which in range(2):
        given = features(4, 4)
        given[which][1, 2, 1, 3] = bad
        with pytest.raises(DataError, match="NaN"):
            sfc_flow.learn(Everywhere(), *given, LABELS, steps(), **CODE | {"weights": weights})


def test_steps_that_leave_the_numbers_are_refused():
    with pytest.raises(DataError, match="NaN"):
        sfc_flow.learn(Everywhere(), *features(4, 4), LABELS, steps(), **CODE | {"lr": 1e38})


@pytest.mark.parametrize("kept", ["products", "layer"])
def test_an_episode_depends_on_neither_the_others_nor_threads(kept, monkeypatch):
    monkeypatch.setattr(sfc_flow, "NODES_PER_CHANNEL", 100 if kept == "products" else 0)
    start, images = features()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(sfc_flow.learn(solver(), start, images, LABELS, steps(), **CODE))
    alone = [
        sfc_flow.learn(solver(), v[None], u[None], LABELS, steps(), **CODE) for v, u in zip(start, images, strict=True)
    ]
    found.append(torch.cat(alone))
    monkeypatch.setattr(sfc_flow, "MOST", 1)  # a group for every episode
    found.append(sfc_flow.learn(solver(), start, images, LABELS, steps(), **CODE))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_what_is_given_stays_and_no_steps_learn_nothing():
    given = features(4, 4)
    copies = [x.clone() for x in given]
    sfc_flow.learn(solver(), *given, LABELS, steps(), **CODE)
    assert torch.equal(sfc_flow.learn(solver(), *given, LABELS, [], **CODE), given[0])
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


def test_weights_do_not_depend_on_where_arrays_lie():
    """Sums that may be reordered are made in vectors only where arrays are seen to lie apart: not with lengths just
    before.
    """
    rng, n, count, found = np.random.default_rng(0), 25, 5, []
    products, inverse, given = (rng.random(shape, np.float32) for shape in ((WAY * n, count * n), WAY * n, count * n))
    for between in (0, 4096):
        room = np.zeros(2 * count * n + between + WAY * n, np.float32)
        means, lengths, right = (
            room[: count * n],
            room[count * n :][: count * n],
            room[2 * count * n + between :].reshape(-1, n),
        )
        means[:], lengths[:] = given, given
        cost, left, pick = np.empty((WAY, n, n), np.float32), np.empty((WAY, n), np.float32), np.zeros(1, np.int64)
        kernel._pose(
            products, pick, pick, 0, lengths, means, inverse, inverse, True, np.float32(1e-3), cost, left, right
        )
        found.append(right.copy())
    assert np.array_equal(*found)
