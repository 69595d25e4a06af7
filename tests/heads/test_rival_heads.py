"""Heads of other papers with weights of their own, against naive loops over episodes, queries, classes and
positions.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_cli.heads.ctx import CTX
from fewshot_cli.heads.deepbdc import DeepBDC
from fewshot_cli.heads.feat import FEAT
from fewshot_cli.heads.frn import FRN

# way, shot, h, w, d: positions of a class fewer than channels, as many, and more; one position; patches with h = 1
SHAPES = [(2, 1, 1, 1, 3), (3, 1, 2, 2, 6), (4, 2, 3, 2, 12), (3, 2, 2, 2, 5), (2, 3, 1, 5, 4)]
HEADS = [
    (FRN, {}),
    (FRN, {"normalise": False}),
    (CTX, {"keys": 20, "values": 7}),
    (DeepBDC, {}),
    (DeepBDC, {"channels": 3}),
    (FEAT, {}),
    (FEAT, {"similarity": "cosine"}),
]

heads = pytest.mark.parametrize(
    ("cls", "options"), HEADS, ids=lambda x: x.__name__ if isinstance(x, type) else "-".join(map(str, x.values()))
)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def make(cls, d, **options):
    """A head in double precision, evaluated, with every weight and statistic off its start."""
    torch.manual_seed(1)
    head = cls(cls.Options(**options), channels=d).double().eval()
    with torch.no_grad():
        for name, x in itertools.chain(head.named_parameters(), head.named_buffers()):
            if x.is_floating_point():
                x.add_(0.3 * torch.rand_like(x) if "var" in name else 0.3 * torch.randn_like(x))
    return head


def episode(shape, episodes=2, queries=5, dtype=torch.float64):
    way, shot, h, w, d = shape
    rng = torch.Generator().manual_seed(2)
    return (
        torch.randn(episodes, way, shot, d, h, w, generator=rng, dtype=dtype),
        torch.randn(episodes, queries, d, h, w, generator=rng, dtype=dtype),
    )


def each_pair(support, query, score) -> np.ndarray:
    """score(query map, class's support maps [shot,d,h,w]) over every episode, query and class."""
    return np.array(
        [
            [[score(q.numpy(), s.numpy()) for s in classes] for q in queries]
            for classes, queries in zip(support, query, strict=True)
        ]
    )


def weights(head) -> dict[str, np.ndarray]:
    return {k: v.detach().numpy() for k, v in head.state_dict().items()}


def features(*maps) -> list[np.ndarray]:
    """Every position of some maps [d,h,w], one after the other."""
    return [m[:, i, j] for m in maps for i in range(m.shape[1]) for j in range(m.shape[2])]


def assert_logits(head, support, query, want):
    np.testing.assert_allclose(head(support, query).detach().numpy(), want, rtol=0, atol=1e-9)


@shapes
@pytest.mark.parametrize("normalise", [True, False])
def test_frn_is_the_error_of_ridge_regression_at_each_position(shape, normalise):
    head, (support, query) = make(FRN, shape[-1], normalise=normalise), episode(shape)
    own, d = weights(head), shape[-1]

    def score(q, classes):
        scale = math.sqrt(d) if normalise else 1
        rows = np.array(features(*classes)) / scale
        ridge = len(rows) / d * math.exp(own["alpha"]) + 1e-6
        errors = []
        for x in features(q):
            # argmin ‖x − wS‖² + λ‖w‖² as plain least squares with √λ·I below
            left, right = np.vstack([rows.T, math.sqrt(ridge) * np.eye(len(rows))]), np.zeros(d + len(rows))
            right[:d] = x / scale
            w = np.linalg.lstsq(left, right, rcond=None)[0]
            errors.append(((math.exp(own["beta"]) * w @ rows - x / scale) ** 2).sum())
        return -own["scale"] * np.mean(errors)

    assert_logits(head, support, query, each_pair(support, query, score))


@shapes
@pytest.mark.parametrize(("keys", "values"), [(3, 7), (9, 2)])
def test_ctx_compares_each_position_with_the_supports_it_attends_to(shape, keys, values):
    head, (support, query) = make(CTX, shape[-1], keys=keys, values=values), episode(shape)
    own = weights(head)

    def score(q, classes):
        errors = []
        for x in features(q):
            logits = np.array([(own["keys.weight"] @ x) @ (own["keys.weight"] @ s) for s in features(*classes)])
            attention = np.exp(logits / math.sqrt(keys))
            aligned = sum(a * (own["values.weight"] @ s) for a, s in zip(attention, features(*classes), strict=True))
            errors.append(((aligned / attention.sum() - own["values.weight"] @ x) ** 2).sum())
        return -np.mean(errors)

    assert_logits(head, support, query, each_pair(support, query, score))


def naive_bdc(own, m, mean, var) -> np.ndarray:
    """Upper triangle of one map's matrix, entry by entry, with the batch norm's statistics."""
    x = m.reshape(len(m), -1)
    if "reduce.0.weight" in own:
        x = own["reduce.0.weight"][:, :, 0, 0] @ x
        x = (x - mean[:, None]) / np.sqrt(var[:, None] + 1e-5) * own["reduce.1.weight"][:, None]
        x = np.maximum(x + own["reduce.1.bias"][:, None], 0)
    c, r = x.shape
    tau = math.exp(own["temperature"]) / (2 * r)
    a = np.array([[math.sqrt(tau * ((x[i] - x[j]) ** 2).sum() + 1e-5) for j in range(c)] for i in range(c)])
    return np.array([a[i, j] - a[i].mean() - a[:, j].mean() + a.mean() for i in range(c) for j in range(i, c)])


@shapes
@pytest.mark.parametrize("similarity", ["by_shot", "inner", "squared_euclidean"])
@pytest.mark.parametrize("channels", [None, 3, 7])
def test_deepbdc_compares_matrices_of_distances_between_channels(shape, similarity, channels):
    head, (support, query) = make(DeepBDC, shape[-1], channels=channels, similarity=similarity), episode(shape)
    own = weights(head)
    assert ("reduce.0.weight" in own) == (channels not in (None, shape[-1]))
    statistics = own.get("reduce.1.running_mean"), own.get("reduce.1.running_var")

    def score(q, classes):
        a, p = naive_bdc(own, q, *statistics), np.mean([naive_bdc(own, s, *statistics) for s in classes], 0)
        inner = similarity == "inner" or (similarity == "by_shot" and shape[1] == 1)
        return a @ p if inner else -((a - p) ** 2).sum()

    assert_logits(head, support, query, each_pair(support, query, score))


def test_deepbdc_normalises_over_all_images_of_a_step_in_training():
    head, (support, query) = make(DeepBDC, 5, channels=3).train(), episode((3, 2, 2, 2, 5))
    own = weights(head)
    images = torch.cat([support.flatten(0, 2), query.flatten(0, 1)]).numpy()
    reduced = np.array([own["reduce.0.weight"][:, :, 0, 0] @ x for x in features(*images)])
    statistics = reduced.mean(0), reduced.var(0)

    def score(q, classes):
        a, p = naive_bdc(own, q, *statistics), np.mean([naive_bdc(own, s, *statistics) for s in classes], 0)
        return -((a - p) ** 2).sum()

    assert_logits(head, support, query, each_pair(support, query, score))


@shapes
@pytest.mark.parametrize(("similarity", "temperature"), [("squared_euclidean", 64.0), ("cosine", 0.5)])
def test_feat_adapts_prototypes_to_each_other(shape, similarity, temperature):
    head = make(FEAT, shape[-1], similarity=similarity, temperature=temperature)
    (support, query), own, d = episode(shape), weights(head), shape[-1]
    want = np.empty((*query.shape[:2], shape[0]))
    for e in range(len(support)):
        start = [np.mean([s.mean((1, 2)) for s in classes], 0) for classes in support[e].numpy()]
        for c, p in enumerate(start):
            logits = np.array([(own["queries.weight"] @ p) @ (own["keys.weight"] @ o) for o in start]) / math.sqrt(d)
            share = np.exp(logits) / np.exp(logits).sum()
            seen = sum(a * (own["values.weight"] @ o) for a, o in zip(share, start, strict=True))
            x = p + own["out.weight"] @ seen + own["out.bias"]
            x = (x - x.mean()) / math.sqrt(x.var() + 1e-5) * own["norm.weight"] + own["norm.bias"]
            for i, q in enumerate(query[e].numpy().mean((2, 3))):
                want[e, i, c] = q @ x / np.linalg.norm(x) if similarity == "cosine" else -((q - x) ** 2).sum()
    assert_logits(head, support, query, want / temperature)


def test_feat_drops_attention_and_what_it_adds_in_training_only():
    support, query = episode((4, 2, 2, 2, 6))

    def moved(**options) -> bool:
        head = make(FEAT, 6, **options)
        still = head(support, query)
        return not torch.allclose(head.train()(support, query), still)

    assert moved() and not moved(dropout=0, attention_dropout=0)
    assert moved(dropout=0) and moved(attention_dropout=0)
    head = make(FEAT, 6, attention_dropout=0)
    torch.nn.init.zeros_(head.out.weight), torch.nn.init.zeros_(head.out.bias)
    assert torch.equal(head.train()(support, query), head.eval()(support, query))  # the prototype itself is kept
    head = make(FEAT, 6, dropout=0).train()
    torch.nn.init.zeros_(head.keys.weight)  # attention is 1/4 each, or 0 for those dropped
    drops = torch.stack([head(support, query) for _ in range(50)])
    assert len(drops.flatten(1).unique(dim=0)) > 10


def test_weights_start_as_in_the_public_code():
    def start(head):
        return {k: v.item() for k, v in head.named_parameters() if not v.ndim}

    assert start(FRN(channels=8)) == {"alpha": 0, "beta": 0, "scale": 1}
    assert start(DeepBDC(channels=8)) == {"temperature": 0} and not list(DeepBDC(channels=8).buffers())
    torch.manual_seed(0)
    ctx, bdc, feat = CTX(channels=500), DeepBDC(DeepBDC.Options(channels=200), channels=500), FEAT(channels=500)
    assert ctx.keys.weight.shape == ctx.values.weight.shape == (128, 500)
    for layer in (ctx.keys, ctx.values):  # a normal distribution cut off at two deviations has 0.88 of its deviation
        assert layer.weight.std().item() == pytest.approx(0.088, rel=0.02) and layer.weight.abs().max() <= 0.2
    assert bdc.reduce[0].weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.02)
    for layer in (feat.queries, feat.keys, feat.values, feat.out):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 1000), rel=0.02)
        assert layer.weight.abs().max() > 4 * math.sqrt(2 / 1000)  # normal, not uniform
    assert [layer.bias is None for layer in (feat.queries, feat.keys, feat.values, feat.out)] == [True] * 3 + [False]


@heads
@pytest.mark.parametrize("shape", [(3, 1, 2, 2, 6), (3, 2, 2, 2, 5)], ids=str)
def test_gradients_reach_every_weight_and_both_sides(cls, options, shape):
    head, (support, query) = make(cls, shape[-1], **options), episode(shape)
    support.requires_grad_(), query.requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1]).repeat(2)
    torch.nn.functional.cross_entropy(head(support, query).flatten(0, 1), labels).backward()
    for name, x in {"support": support, "query": query, **dict(head.named_parameters())}.items():
        assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().max() > 1e-8, name


@heads
@pytest.mark.parametrize("shape", [(2, 1, 1, 2, 3), (2, 2, 1, 2, 3)], ids=str)
def test_gradients_are_right(cls, options, shape):
    head, inputs = make(cls, shape[-1], **options), episode(shape, 1, 2)
    names, own = zip(*head.named_parameters(), strict=True)

    def logits(support, query, *weights):
        return torch.func.functional_call(head, dict(zip(names, weights, strict=True)), (support, query))

    inputs = [x.detach().clone().requires_grad_() for x in (*inputs, *own)]
    assert torch.autograd.gradcheck(logits, inputs, atol=1e-6)


@heads
@shapes
def test_heads_are_batched_and_equivariant_and_keep_nothing(cls, options, shape):
    head, (support, query) = make(cls, shape[-1], **options), episode(shape, episodes=3)
    logits = head(support, query)
    assert logits.shape == (3, 5, shape[0]) and logits.dtype == torch.float64
    alone = torch.cat([head(s[None], q[None]) for s, q in zip(support, query, strict=True)])
    torch.testing.assert_close(logits, alone, rtol=0, atol=1e-10)
    torch.testing.assert_close(head(support, query[:, :2]), logits[:, :2], rtol=0, atol=1e-10)
    order = torch.arange(shape[0]).roll(1)
    torch.testing.assert_close(head(support[:, order], query), logits[:, :, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(head(support.flip(2), query), logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(head(support, query), logits, rtol=0, atol=0)
    assert (logits - logits[:, :, order]).abs().max() > 1e-3  # classes differ, so the order was seen
    single = head.float()(support.float(), query.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), logits, rtol=1e-4, atol=1e-4)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor, in double precision, that is made inside the block; a view makes none."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else [out]
        self.found = max(
            [self.found, *(x.untyped_storage().nbytes() // 8 for x in made if isinstance(x, torch.Tensor))]
        )
        return out


@heads
@pytest.mark.parametrize(
    "shape", [*SHAPES, (5, 1, 3, 3, 4), (2, 6, 1, 1, 5), (2, 1, 4, 4, 2), (9, 1, 1, 1, 2)], ids=str
)
@pytest.mark.parametrize("queries", [1, 6])
def test_cells_are_the_largest_tensor_of_an_episode(cls, options, shape, queries):
    way, shot, h, w, d = shape
    head, (support, query) = make(cls, d, **options), episode(shape, 2, way * queries)
    with torch.no_grad(), Largest() as largest:
        head(support, query)
    cells = 2 * head.elements(way, shot, queries, h * w)
    # the maps themselves, in another order, are counted by those who call a head
    assert cells <= largest.found <= max(cells, support.numel() + query.numel())


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (FRN, {"normalise": "sometimes"}),
        (FRN, {"floor": 1}),
        (CTX, {"keys": 0}),
        (CTX, {"values": 65537}),
        (DeepBDC, {"channels": 1}),
        (DeepBDC, {"similarity": "cosine"}),
        (FEAT, {"temperature": 0}),
        (FEAT, {"dropout": 1}),
        (FEAT, {"attention_dropout": -0.1}),
        (FEAT, {"similarity": "inner"}),
    ],
)
def test_an_option_out_of_range_is_refused(cls, options):
    assert cls.Options() and not cls.needs_solver
    with pytest.raises(ValidationError, match=next(iter(options))):
        cls.Options(**options)
