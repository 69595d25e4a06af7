"""Proxies found in a support set: against loops over episodes, queries, classes and features, with SciPy's linear
program.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy.optimize import linprog

from fewshot_cli import transport
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_head, build_solver
from fewshot_cli.contracts import Learns
from fewshot_cli.errors import DataError
from fewshot_cli.heads import proxies
from fewshot_cli.heads.proxies import Proxies, ProxiesOptions, kmeans, mean_of


def make(solver="network_simplex", d=6, **options):
    own = build_solver(default_part("solvers", solver))
    return Proxies(ProxiesOptions(**options), channels=d, solver=own).eval()


def episode(seed=0, way=3, shot=2, queries=4, d=6, side=(2, 3), episodes=1):
    rng = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(episodes, *n, d, *side, generator=rng, dtype=torch.float64).abs() ** 2
        for n in ((way, shot), (queries,))
    )


def naive_start(x: np.ndarray, count: int) -> list[int]:
    """First the feature [N,d] nearest to the mean, then the one whose nearest chosen one is farthest."""
    picks = [int(np.argmax(x @ x.mean(0)))]
    while len(picks) < count:
        picks.append(int(np.argmin([max(f @ x[p] for p in picks) for f in x])))
    return picks


def naive_clusters(x: np.ndarray, count: int, rounds: int) -> tuple[np.ndarray, list[int]]:
    """Labels of spherical k-means of features [N,d] of length one, and where clusters began."""
    first = naive_start(x, count)
    centres = [x[i] for i in first]
    for _ in range(rounds):
        labels = np.array([int(np.argmax([f @ c / np.linalg.norm(c) for c in centres])) for f in x])
        centres = [x[labels == m].mean(0) if (labels == m).any() else x[first[m]] for m in range(count)]
    return labels, first


def naive_flow(cost: np.ndarray, demand: np.ndarray) -> np.ndarray:
    """The optimal flow of features of equal mass."""
    n, m = cost.shape
    a = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return linprog(cost.ravel(), A_eq=a, b_eq=np.concatenate([np.full(n, 1 / n), demand])).x.reshape(n, m)


def naive_logits(support, query, count, score, norm, power, masses, scale=12.5, rounds=10) -> np.ndarray:
    """Logits of one episode: support maps as a list of classes [shot,d,h,w], query [q,d,h,w]."""

    def features(maps):
        x = maps.numpy().reshape(*maps.shape[:2], -1).transpose(0, 2, 1)
        return x - x.mean(2, keepdims=True) if norm == "center" else x

    out = np.zeros((len(query), len(support)))
    for k, maps in enumerate(support):
        x = features(maps).reshape(-1, maps.shape[1])
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        labels, first = naive_clusters(unit, count, rounds)
        source = unit if score == "cosine" else x
        own = [source[labels == m].mean(0) if (labels == m).any() else source[first[m]] for m in range(count)]
        sizes = np.array([(labels == m).mean() for m in range(count)])
        demand = sizes if masses == "sizes" else np.full(count, 1 / count)
        for i, q in enumerate(features(query)):
            inner = np.array([[f @ p for p in own] for f in q])
            cosine = np.array([[f @ p / np.linalg.norm(f) / np.linalg.norm(p) for p in own] for f in q])
            flow = naive_flow(np.maximum(1 - cosine, 0) ** power, demand)
            out[i, k] = scale * (flow * (cosine if score == "cosine" else inner)).sum()
    return out


@pytest.mark.parametrize("masses", ["uniform", "sizes"])
@pytest.mark.parametrize(
    ("score", "norm", "power"), [("cosine", "center", 1.0), ("cosine", "cosine", 2.0), ("inner", "cosine", 1.0)]
)
@pytest.mark.parametrize("solver", ["network_simplex", "highs"])
def test_logits_are_those_of_a_loop(solver, score, norm, power, masses):
    support, query = episode(episodes=2, side=(3, 3))
    head = make(solver, proxies=4, score=score, norm=norm, power=power, masses=masses, passes=0)
    want = [naive_logits(list(s), q, 4, score, norm, power, masses) for s, q in zip(support, query, strict=True)]
    np.testing.assert_allclose(head(support, query), want, atol=1e-6)


def test_kmeans_is_the_loops_never_falls_and_ends():
    rng = torch.Generator().manual_seed(3)
    x = F.normalize(torch.randn(40, 30, 5, generator=rng, dtype=torch.float64), dim=2)
    one = [kmeans(x, 6, rounds) for rounds in range(1, 40)]
    for i in range(5):
        for rounds in (1, 4):
            labels, first = naive_clusters(x[i].numpy(), 6, rounds)
            assert one[rounds - 1][0][i].tolist() == labels.tolist() and one[0][1][i].tolist() == first
    total = []
    for labels, first in one:
        centres = F.normalize(mean_of(x, labels, first)[0], dim=2)
        total.append((x * centres.gather(1, labels[..., None].expand_as(x))).sum((1, 2)))
    rise = torch.stack(total).diff(dim=0)
    assert rise.min() > -1e-12 and (rise[0] > 1e-3).sum() > 30 and rise[-1].abs().max() < 1e-12
    alone = [kmeans(one_set[None], 6, 40)[0][0] for one_set in x]
    assert torch.equal(torch.stack(alone), one[-1][0])


def test_features_without_direction_and_fewer_features_than_proxies():
    x = torch.zeros(1, 6, 4)
    x[0, 2], x[0, 4] = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 1.0, 0, 0])
    labels, first = kmeans(x, 2, 10)
    assert sorted(first[0].tolist()) == [2, 4] and labels[0, 2] != labels[0, 4]  # never a feature of zero
    means, sizes = mean_of(x, *kmeans(x, 4, 10))  # two directions for four clusters: the others repeat one
    assert means.norm(dim=2).min() > 0 and sizes.sum() == 6 and (sizes == 0).sum() == 2
    same = torch.rand(1, 50, 1, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 50, 7, 1, 1)
    assert (same - same.mean(2, keepdim=True)).abs().max() > 0  # single precision leaves a direction
    assert make()._features(same).abs().max() == 0
    logits = make(d=4, proxies=9, passes=3)(torch.zeros(1, 3, 1, 4, 2, 2), torch.rand(1, 2, 4, 2, 2))
    assert torch.isfinite(logits).all()
    support, query = episode(side=(1, 2), shot=1)
    assert torch.isfinite(make(proxies=7, passes=3, masses="sizes")(support, query)).all()


def test_one_proxy_is_the_mean_direction_and_as_many_as_features_are_the_map():
    support, query = episode(side=(2, 2))
    x, y = (F.normalize(v.flatten(-2).mT, dim=-1) for v in (support, query))
    mean = F.normalize(x.flatten(2, 3).mean(2), dim=-1)  # of all features of the class, each of length one
    want = 12.5 * torch.einsum("eqjd,ecd->eqc", y, mean) / 4
    assert torch.allclose(make(proxies=1, norm="cosine", passes=0)(support, query), want)
    emd = build_head(default_part("heads", "emd", weights="equal"), 6, default_part("solvers", "network_simplex"))
    one = support[:, :, :1]  # one shot, every feature its own cluster
    assert torch.allclose(make(proxies=4, passes=0)(one, query), emd(one, query), atol=1e-6)


@pytest.mark.parametrize("passes", [0, 3])
def test_episodes_classes_shots_and_positions_have_no_order(passes):
    support, query = episode(7, way=4, shot=3, queries=5, side=(2, 2), episodes=3)
    head = make(proxies=3, passes=passes)
    logits = head(support, query)
    alone = torch.cat([head(s[None], q[None]) for s, q in zip(support, query, strict=True)])
    assert logits.shape == (3, 5, 4) and torch.allclose(logits, alone, atol=1e-9)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(head(support[:, order], query), logits[..., order], atol=1e-9)
    assert torch.allclose(head(support[:, :, [2, 0, 1]], query[:, [4, 3, 2, 1, 0]]), logits.flip(1), atol=1e-9)
    places = support.flatten(-2)[..., order].view_as(support)
    assert torch.allclose(head(places, query.flatten(-2)[..., order].view_as(query)), logits, atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "masses"), [("network_simplex", "uniform"), ("network_simplex", "sizes"), ("sinkhorn", "uniform")]
)
def test_gradients_of_meta_training_are_finite_differences(solver, masses):
    """Clusters stay the same over small steps, so that differences are those of the means."""
    support, query = (x.clone().requires_grad_() for x in episode(5))
    head = make(solver, masses=masses, proxies=3, passes=0)
    if solver == "sinkhorn":
        spec = default_part("solvers", solver, tolerance=1e-12, max_iterations=5000, regularisation=0.2)
        head.solver = build_solver(spec)
    labels = torch.tensor([0, 2, 1, 1])

    def loss(s, q):
        return F.cross_entropy(head(s, q)[0], labels)

    grads = torch.autograd.grad(loss(support, query), (support, query))
    rng = torch.Generator().manual_seed(0)
    for which, grad in enumerate(grads):
        for _ in range(4):
            step = torch.randn(grad.shape, generator=rng, dtype=torch.float64)
            moved = [[support.detach(), query.detach()] for _ in range(2)]
            for sign, pair in zip((1, -1), moved, strict=True):
                pair[which] = pair[which] + sign * 1e-5 * step
            with torch.no_grad():
                slope = (loss(*moved[0]) - loss(*moved[1])) / 2e-5
            assert float((grad * step).sum()) == pytest.approx(float(slope), rel=1e-4, abs=1e-7)


def test_fine_tuning_is_a_plain_loop_of_sgd_that_lowers_the_support_loss(monkeypatch):
    support, query = episode(9, shot=3)
    images, labels = support.transpose(1, 2).flatten(1, 2), torch.arange(3).repeat(3)
    still, options = make(passes=0), {"lr": 0.2, "momentum": 0.5, "weight_decay": 0.01}
    layer = still.learn(images, labels)
    velocity, losses = None, []
    from fewshot_cli.heads.shared.batches import batches

    for pick in batches(9, 4, 6, None):
        layer = layer.detach().requires_grad_()
        loss = F.cross_entropy(still.score(layer, images[:, pick])[0], labels[pick])
        (grad,) = torch.autograd.grad(loss, layer)
        grad = grad + 0.01 * layer
        velocity = grad if velocity is None else 0.5 * velocity + 0.5 * grad
        layer = torch.cat([(layer - 0.2 * velocity)[..., :-1], layer[..., -1:]], -1)
    assert torch.allclose(make(passes=6, batch=4, **options).learn(images, labels), layer, atol=1e-9)
    for passes in (0, 5, 50):
        found = make(passes=passes).learn(images, labels)
        losses.append(float(F.cross_entropy(still.score(found, images)[0], labels)))
    assert losses[0] > losses[1] + 0.01 > losses[2] + 0.02
    drawn = make(init="linear", passes=50)
    assert drawn(support, images)[0].argmax(1).tolist() == labels.tolist()
    assert torch.equal(drawn(support, query), drawn(support, query))
    first = make(init="linear", passes=1, lr=1e-12).learn(torch.cat([images, images.flip(1)]), labels)[..., :-1]
    assert (
        torch.allclose(first[0], first[1], atol=1e-9)
        and 0.3 < first.abs().max() < 6**-0.5
        and len(first[0].unique()) == 72
    )
    seen = []
    monkeypatch.setattr(proxies, "batches", lambda *of: seen.append(of) or iter(()))
    make().learn(images, labels)
    assert seen == [(9, 9, 50, None)]  # all images at once


def test_the_gradient_passes_fine_tuning_and_its_scores_do_not_hang_on_the_mode():
    support, query = (x.clone().requires_grad_() for x in episode(6))
    head = make(passes=20)
    head(support, query).square().sum().backward()
    assert support.grad.abs().sum() > 0 and query.grad.abs().sum() > 0
    with torch.no_grad():
        assert torch.allclose(head.train()(support, query), head.eval()(support, query))


@pytest.mark.parametrize("masses", ["uniform", "sizes"])
def test_uneven_classes_are_learned(masses):
    support, query = episode(11, shot=3)
    labels, head = torch.tensor([2, 0, 1, 2, 0, 2]), make(masses=masses, passes=0)
    images = torch.stack([support[0, c, int((labels[:i] == c).sum())] for i, c in enumerate(labels.tolist())])
    assert isinstance(head, Learns)
    layer = head.learn(images[None], labels)
    assert layer.shape == (1, 3, 4, 7) and torch.allclose(layer[..., -1].sum(2), torch.ones(1, 3).double())
    classes = [images[labels == c] for c in range(3)]
    want = naive_logits(classes, query[0], 4, "cosine", "center", 1.0, masses)
    np.testing.assert_allclose(head.score(layer, query)[0], want, atol=1e-6)
    even = support.transpose(1, 2).flatten(1, 2)
    learned = make(masses=masses, passes=4)
    assert torch.allclose(learned.score(learned.learn(even, torch.arange(3).repeat(3)), query), learned(support, query))


def test_problems_of_an_episode_lie_together_and_cells_count_the_cosines():
    support, query = episode(episodes=2)
    query[1] = query[1] * 0 + 1.0  # an episode whose queries have no direction, in float
    head, seen = make(passes=0, proxies=3), []
    inside = head.solver.solve
    head.solver.solve = lambda cost, s, d: seen.append(cost) or inside(cost, s, d)
    with transport.ledger() as book:
        head(support, query)
    (cost,) = seen
    assert cost.shape == (2 * 4 * 3, 6, 3) and book.failures(2) == [0, 0]
    assert torch.equal(cost[12:], torch.ones(12, 6, 3).double()) and (cost[:12] != 1).all()
    assert head.elements(way=3, shot=2, query=4, positions=6) == 3 * 3 * 4 * 6 * 3
    assert head.elements(way=3, shot=9, query=4, positions=6) == 3 * 3 * 9 * 6 * 3


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValidationError, match="passes: 0 leaves drawn proxies knowing nothing"):
        ProxiesOptions(init="linear", passes=0)
    with pytest.raises(ValidationError, match="sizes are those of clusters"):
        ProxiesOptions(init="linear", masses="sizes")
    support, query = episode()
    query[0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="NaN or infinite features"):
        make()(support, query)
