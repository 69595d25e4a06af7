"""Heads against naive loops, one pair and one position at a time."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from fewshot_cli import build, transport
from fewshot_cli.recipe import default_part


def episode(seed: int, way=3, shot=2, queries=4, d=6, side=2):
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.rand(1, way, shot, d, side, side, generator=rng),
        torch.rand(1, queries, d, side, side, generator=rng),
    )


def naive_emd(support, query, norm: str) -> np.ndarray:
    """DeepEMD's logit by eq. 1, 4, 9, 10 of the paper, with SciPy's LP for each pair."""
    out = np.zeros((query.shape[1], support.shape[1]))
    for q in range(out.shape[0]):
        for k in range(out.shape[1]):
            u = query[0, q].flatten(1).T.double().numpy()
            v = support[0, k].mean(0).flatten(1).T.double().numpy()
            n = len(u)
            s = np.array([max(x @ v.mean(0), 0) + 1e-3 for x in u])
            d = np.array([max(x @ u.mean(0), 0) + 1e-3 for x in v])
            s, d = s * n / s.sum(), d * n / d.sum()
            if norm == "center":
                u, v = u - u.mean(1, keepdims=True), v - v.mean(1, keepdims=True)
            cosine = np.array([[x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for y in v] for x in u])
            a = np.vstack([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))])
            flow = linprog((1 - cosine).ravel(), A_eq=a, b_eq=np.concatenate([s, d])).x.reshape(n, n)
            out[q, k] = 12.5 / n * (cosine * flow).sum()
    return out


@pytest.mark.parametrize("norm", ["center", "cosine"])
@pytest.mark.parametrize("solver", ["pot", "opencv"])
def test_emd_logits_equal_the_naive_loop(norm, solver):
    support, query = episode(1)
    head = build.head(default_part("heads", "emd", norm=norm), 6, default_part("solvers", solver))
    np.testing.assert_allclose(head(support, query)[0].numpy(), naive_emd(support, query, norm), atol=2e-4)


def test_emd_gradient_reaches_features_through_cost_and_weights():
    support, query = (x.double() for x in episode(2, way=2, shot=1, queries=1))
    head = build.head(default_part("heads", "emd"), 6, default_part("solvers", "pot"))
    assert torch.autograd.gradcheck(head, (support.requires_grad_(), query.requires_grad_()), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("pool", ["gap", "flatten"])
def test_prototype_equals_the_naive_loop(pool):
    support, query = episode(3)
    shrink = (lambda x: x.flatten(1).mean(1)) if pool == "gap" else (lambda x: x.flatten())
    for distance in ("squared_euclidean", "cosine"):
        head = build.head(
            default_part("heads", "prototype", pool=pool, distance=distance), 6, default_part("solvers", "pot")
        )
        for q in range(4):
            for k in range(3):
                p = torch.stack([shrink(m) for m in support[0, k]]).mean(0)
                x = shrink(query[0, q])
                want = -((x - p) ** 2).sum() if distance == "squared_euclidean" else x @ p / (x.norm() * p.norm())
                assert abs(head(support, query)[0, q, k] - want) < 1e-5


def sfc(**options):
    return build.head(default_part("heads", "sfc", **options), 6, default_part("solvers", "pot"))


def test_sfc_equals_emd_before_learning_and_with_one_shot():
    support, query = episode(4)
    emd = build.head(default_part("heads", "emd"), 6, default_part("solvers", "pot"))
    assert torch.allclose(sfc(passes=0)(support, query), emd(support, query))
    assert torch.allclose(sfc()(support[:, :, :1], query), emd(support[:, :, :1], query))


def test_sfc_learning_equals_a_plain_sgd_loop_and_lowers_the_support_loss():
    support, query = episode(5, shot=3)
    head = sfc(passes=3, batch=4, lr=0.05)
    from fewshot_cli.heads.emd import emd_logits
    from fewshot_cli.heads.sfc import _order

    pictures = support[0].flatten(3).mT.transpose(0, 1).flatten(0, 1)  # abcabcabc
    labels = torch.arange(3).repeat(3)
    layer = support[0].mean(1).flatten(2).mT.clone()
    velocity = None

    def loss_of(parameter, pick):
        logits = emd_logits(head.solver, pictures[None, pick], parameter[None], head.options)[0]
        return torch.nn.functional.cross_entropy(logits, labels[pick])

    before = loss_of(layer, torch.arange(9))
    for sweep in range(3):
        for pick in _order(sweep, 9).split(4):
            layer = layer.detach().requires_grad_()
            (grad,) = torch.autograd.grad(loss_of(layer, pick), layer)
            velocity = grad if velocity is None else 0.9 * velocity + 0.1 * grad
            layer = layer - 0.05 * velocity
    assert loss_of(layer, torch.arange(9)) < before
    want = emd_logits(head.solver, query.flatten(3).mT, layer.detach()[None], head.options)
    assert torch.allclose(head(support, query), want, atol=1e-4)


def test_warm_starts_do_not_change_what_sfc_learns(monkeypatch):
    from fewshot_cli.heads.sfc import nodes

    rng = torch.Generator().manual_seed(4)
    support = torch.randn(2, 3, 3, 16, 3, 3, generator=rng).relu()
    head = build.head(default_part("heads", "sfc", passes=5, lr=1.0), 16, default_part("solvers", "network_simplex"))
    layers = []
    for warm in (True, False):
        monkeypatch.setattr(type(head.solver), "warm_start", warm)
        with transport.ledger() as book:
            pictures = nodes(support.transpose(1, 2).flatten(1, 2))
            layers.append(head.learn(nodes(support.mean(2)), pictures, torch.arange(3).repeat(3)))
        layers.append(sum(int(x.sum()) for x in book.iterations))
    (first, pivots_warm, second, pivots_cold) = layers
    assert torch.allclose(first, second, atol=1e-5) and pivots_warm < pivots_cold


@pytest.mark.parametrize("norm", ["center", "cosine"])
def test_a_feature_of_length_zero_has_a_finite_gradient(norm):
    support, query = episode(3)
    query[0, 0, :, 0, 0] = 0
    support, query = support.requires_grad_(), query.requires_grad_()
    head = build.head(default_part("heads", "emd", norm=norm), 6, default_part("solvers", "network_simplex"))
    grads = torch.autograd.grad(head(support, query).sum(), (support, query))
    assert all(torch.isfinite(grad).all() for grad in grads)
