"""Heads against naive loops, one pair and one position at a time."""

import itertools
import zlib
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog

from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_head
from fewshot_cli.errors import DataError
from fewshot_cli.heads.shared.local import cells


def episode(seed: int, way=3, shot=2, queries=4, d=6, side=2, episodes=1):
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.rand(episodes, way, shot, d, side, side, generator=rng),
        torch.rand(episodes, queries, d, side, side, generator=rng),
    )


def make(name: str, solver: str = "pot", d: int = 6, **options):
    return build_head(default_part("heads", name, **options), d, default_part("solvers", solver)).eval()


def naive_nodes(m, pyramid=()) -> np.ndarray:
    """Local features [N,d] of one map [d,h,w], pooled bin by bin."""
    m = m.double().numpy()
    d, h, w = m.shape
    out = []
    for size in pyramid:
        for i, j in itertools.product(range(size), repeat=2):
            rows = slice(i * h // size, -(-(i + 1) * h // size))
            columns = slice(j * w // size, -(-(j + 1) * w // size))
            out.append(m[:, rows, columns].reshape(d, -1).mean(1))
    return np.array(out + [m[:, i, j] for i in range(h) for j in range(w)])


@cache
def labels_of(nodes: bytes, shape: tuple[int, int], weights: str, clusters: int) -> np.ndarray:
    from sklearn.cluster import KMeans, MeanShift

    x = np.frombuffer(nodes, np.float32).reshape(shape)
    return (KMeans(clusters, n_init=1, random_state=0) if weights == "kmeans" else MeanShift()).fit_predict(x)


def naive_labels(x: np.ndarray, weights: str, clusters: int) -> np.ndarray:
    """Clusters of an image's nodes [n,d], which a loop over pairs meets again and again."""
    return labels_of(x.tobytes(), x.shape, weights, clusters)


def naive_weights(u, v, weights="cross_reference", clusters=2, cluster_nodes="centroids", norm="center"):
    """Nodes and weights of one pair: eq. 9 and 10, or sizes of clusters."""
    if weights == "cross_reference":
        s = np.array([max(x @ v.mean(0), 0) + 1e-3 for x in u])
        d = np.array([max(x @ u.mean(0), 0) + 1e-3 for x in v])
    elif weights == "equal":
        s, d = np.ones(len(u)), np.ones(len(v))
    else:
        sides = []
        for x in (u, v):
            c = (x - x.mean(1, keepdims=True)) if norm == "center" else x
            labels = naive_labels((c / np.linalg.norm(c, axis=1, keepdims=True)).astype(np.float32), weights, clusters)
            sizes = np.array([(labels == k).sum() for k in labels], float)
            if cluster_nodes == "centroids":  # one node a cluster, as Rubner's signatures are written
                names = sorted(set(labels))
                x = np.array([x[labels == k].mean(0) for k in names])
                sizes = np.array([(labels == k).sum() for k in names], float)
            sides.append((x, sizes))
        (u, s), (v, d) = sides
    return u, v, s / s.sum(), d / d.sum()


def naive_cosines(u, v, norm):
    if norm == "center":
        u, v = u - u.mean(1, keepdims=True), v - v.mean(1, keepdims=True)
    return np.array([[x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for y in v] for x in u])


def naive_emd(u, v, norm="center", **weights) -> float:
    """DeepEMD's logit of two sets of nodes by eq. 1, 3, 4 of the paper, with SciPy's LP."""
    u, v, s, d = naive_weights(u, v, norm=norm, **weights)
    cosine = naive_cosines(u, v, norm)
    n, m = cosine.shape
    a = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    flow = linprog((1 - cosine).ravel(), A_eq=a, b_eq=np.concatenate([s, d])).x.reshape(n, m)
    return 12.5 * (cosine * flow).sum()


def each_pair(support, query, score) -> np.ndarray:
    """score(query map, class's support maps [shot,d,h,w]) over every episode, query and class."""
    return np.array(
        [[[score(q, s) for s in classes] for q in queries] for classes, queries in zip(support, query, strict=True)]
    )


@pytest.mark.parametrize("norm", ["center", "cosine"])
@pytest.mark.parametrize("solver", ["pot", "opencv"])
def test_emd_logits_equal_the_naive_loop(norm, solver):
    support, query = episode(1)
    want = each_pair(support, query, lambda q, s: naive_emd(naive_nodes(q), naive_nodes(s.mean(0)), norm))
    tolerance = 2e-4 if solver == "opencv" else 1e-5  # OpenCV works in float32
    np.testing.assert_allclose(make("emd", solver, norm=norm)(support, query).numpy(), want, atol=tolerance)


WEIGHTS = [
    {"weights": "cross_reference"},
    {"weights": "equal"},
    {"weights": "mean_shift"},
    {"weights": "mean_shift", "cluster_nodes": "positions"},
    {"weights": "kmeans", "clusters": 2},
    {"weights": "kmeans", "clusters": 2, "cluster_nodes": "positions"},
]


@pytest.mark.parametrize("options", WEIGHTS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("pyramid", [(), (2, 1)])
@pytest.mark.parametrize("side", [(3, 3), (1, 13)])
def test_emd_equals_the_naive_loop_for_every_option_of_weights_pyramid_and_patches(options, pyramid, side):
    """840 random episodes, 56 for each choice (28 of mean shift), no two alike, of 2 to 4 ways, 1 or 2 shots and 1 or 2
    queries; half are cosines without centring, and where no clusters hang on rounding half are in single precision.
    Patches have h = 1.
    """
    if pyramid and side[0] == 1:
        with pytest.raises(DataError, match="head.pyramid: the features are 13 patches"):
            make("emd", pyramid=pyramid)(torch.rand(1, 2, 1, 6, *side), torch.rand(1, 1, 6, *side))
        return
    rng = torch.Generator().manual_seed(zlib.crc32(f"{options}{pyramid}{side}".encode()))
    for case in range(7 if options["weights"] == "mean_shift" else 14):
        way, shot, queries = (
            int(torch.randint(low, high, (), generator=rng)) for low, high in ((2, 5), (1, 3), (1, 3))
        )
        kind = torch.float32 if case % 4 < 2 and options["weights"] in ("cross_reference", "equal") else torch.float64
        norm = "center" if case % 2 else "cosine"
        support, query = (
            torch.randn(4, *shape, 8, *side, generator=rng, dtype=kind).relu()
            + 0.1 * torch.rand(4, *shape, 8, *side, generator=rng, dtype=kind)
            for shape in ((way, shot), (queries,))
        )
        got = make("emd", "network_simplex", 8, norm=norm, pyramid=pyramid, **options)(support, query)
        want = each_pair(
            support,
            query,
            lambda q, s, norm=norm: naive_emd(
                naive_nodes(q, pyramid), naive_nodes(s.mean(0), pyramid), norm, **options
            ),
        )
        np.testing.assert_allclose(got.numpy(), want, atol=1e-6 if kind == torch.float64 else 2e-5)


def test_clusters_of_few_features_in_many_channels_are_those_of_their_distances():
    from fewshot_cli.heads.shared.clusters import _labels

    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(c, 0.1, (3, 40)) for c in (0, 3, 9)]).astype(np.float32)
    for weights, clusters in (("mean_shift", None), ("kmeans", 3)):
        got, want = _labels(x, clusters), naive_labels(x, weights, 3)
        assert len(set(got)) > 1 and (got[:, None] == got).tolist() == (want[:, None] == want).tolist()


@pytest.mark.parametrize("options", [WEIGHTS[0], WEIGHTS[1]], ids=["cross_reference", "equal"])
def test_full_connections_are_the_weighted_sum_of_all_cosines(options):
    support, query = episode(2)

    def score(q, s):
        u, v, a, b = naive_weights(naive_nodes(q), naive_nodes(s.mean(0)), **options)
        return 12.5 * (a[:, None] * b[None] * naive_cosines(u, v, "center")).sum()

    np.testing.assert_allclose(
        make("full_connections", **options)(support, query), each_pair(support, query, score), atol=1e-5
    )


def test_nearest_and_fusion_look_at_each_shot():
    support, query = episode(6, shot=3)

    def scores(q, s):
        return [naive_emd(naive_nodes(q), naive_nodes(one)) for one in s]

    want = each_pair(support, query, lambda q, s: max(scores(q, s)))
    np.testing.assert_allclose(make("emd", shots="nearest")(support, query), want, atol=1e-4)
    want = each_pair(support, query, lambda q, s: np.mean(scores(q, s)))
    np.testing.assert_allclose(make("emd", shots="fusion")(support, query), want, atol=1e-4)


def test_pyramid_refuses_to_double_the_map():
    support, query = torch.rand(1, 2, 1, 6, 5, 5), torch.rand(1, 3, 6, 5, 5)
    for name in ("emd", "sfc", "knn", "fusion", "full_connections"):
        with pytest.raises(DataError, match=r"5 is not smaller than the 5×5 map.*leave 5 out"):
            make(name, pyramid=(5, 2, 1))(support, query)
    from fewshot_cli.heads.shared.local import nodes

    assert nodes(query, (2, 1)).shape == (1, 3, 30, 6)
    with pytest.raises(ValueError, match="2 is there twice"):
        make("emd", pyramid=(2, 1, 2))


def test_matching_network_is_the_attention_over_support_images():
    support, query = episode(7, shot=3)
    t = 4.0
    logits = make("matching", temperature=t)(support, query)[0]
    for q in range(4):
        x = F.normalize(query[0, q].flatten(1).mean(1), dim=0)
        attention = torch.stack(
            [t * x @ F.normalize(m.flatten(1).mean(1), dim=0) for m in support[0].flatten(0, 1)]
        ).softmax(0)
        assert torch.allclose(logits[q].softmax(0), attention.unflatten(0, (3, 3)).sum(1), atol=1e-6)
    one = make("matching")(support[:, :, :1], query)
    assert torch.allclose(one, make("prototype", distance="cosine", scale=12.5)(support[:, :, :1], query), atol=1e-5)


def test_knn_counts_the_nearest_of_all_the_classs_local_features():
    support, query = episode(8, shot=2, side=3)

    def score(q, s):
        pool = np.concatenate([naive_nodes(one) for one in s])
        return 12.5 * np.sort(naive_cosines(naive_nodes(q), pool, "cosine"), 1)[:, -4:].mean()

    np.testing.assert_allclose(
        make("knn", k=4, norm="cosine")(support, query), each_pair(support, query, score), atol=1e-5
    )
    with pytest.raises(DataError, match="19 nearest neighbours were asked for, a class has 18 local features"):
        make("knn", k=19)(support, query)


def test_fusion_averages_the_probabilities_of_local_features():
    support, query = episode(9)
    got = make("fusion", temperature=5.0)(support, query)[0].softmax(-1)
    assert torch.allclose(make("fusion", temperature=5.0)(support, query)[0].exp().sum(-1), torch.ones(4), atol=1e-5)
    prototypes = np.array([np.concatenate([naive_nodes(one) for one in s]).mean(0) for s in support[0]])
    for q in range(4):
        scores = 5 * naive_cosines(naive_nodes(query[0, q]), prototypes, "center")
        each = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        np.testing.assert_allclose(got[q], each.mean(0), atol=1e-5)


@pytest.mark.parametrize("classifier", ["dot", "cosine"])
def test_finetune_equals_a_plain_sgd_loop_per_episode(classifier):
    from fewshot_cli.heads.shared.batches import batches

    support, query = episode(10, shot=3, episodes=2)
    head = make("finetune", classifier=classifier, passes=5, lr=0.3)
    for e in range(2):
        rng = torch.Generator().manual_seed(0)
        layer = torch.nn.Linear(6, 3)
        with torch.no_grad():
            start = (2 * torch.rand(3, 7, generator=rng) - 1) / 6**0.5
            layer.weight.copy_(start[:, :6])
            layer.bias.copy_(start[:, 6])

        def score(x, layer=layer):
            if classifier == "cosine":
                return 2 * F.normalize(x, dim=1) @ F.normalize(layer.weight, dim=1).T
            return layer(x)

        parameters = [layer.weight] if classifier == "cosine" else list(layer.parameters())
        optimizer = torch.optim.SGD(parameters, lr=0.3, momentum=0.9, dampening=0.9, weight_decay=1e-3)
        images = support[e].flatten(3).mean(-1).transpose(0, 1).flatten(0, 1)
        labels = torch.arange(3).repeat(3)
        for pick in batches(9, 4, 5, None):
            optimizer.zero_grad()
            F.cross_entropy(score(images[pick]), labels[pick]).backward()
            optimizer.step()
        assert torch.allclose(head(support, query)[e], score(query[e].flatten(2).mean(-1)), atol=1e-5)


def test_emd_gradient_reaches_features_through_cost_and_weights():
    support, query = (x.double() for x in episode(2, way=2, shot=1, queries=1))
    inputs = (support.requires_grad_(), query.requires_grad_())
    assert torch.autograd.gradcheck(make("emd"), inputs, eps=1e-6, atol=1e-5)


def gradient(head, support, query):
    support = support.clone().requires_grad_()
    loss = F.cross_entropy(head(support, query).flatten(0, 1), torch.arange(query.shape[1]) % support.shape[1])
    return torch.autograd.grad(loss, support)[0]


def test_gradient_choices_envelope_is_qpths_and_flow_is_opencvs():
    pytest.importorskip("qpth")
    support, query = (x.double() for x in episode(12, shot=1))
    full = gradient(make("emd"), support, query)
    flow = gradient(make("emd", gradient="flow"), support, query)
    implicit = gradient(make("emd", "qpth"), support, query)
    opencv = gradient(make("emd", "opencv"), support, query)
    assert torch.allclose(flow, opencv, atol=1e-3 * flow.abs().max())
    assert F.cosine_similarity(full.flatten(), implicit.flatten(), dim=0) > 0.999
    assert F.cosine_similarity(full.flatten(), flow.flatten(), dim=0) < 0.99


@pytest.mark.parametrize("pool", ["gap", "flatten"])
def test_prototype_equals_the_naive_loop(pool):
    support, query = episode(3)
    shrink = (lambda x: x.flatten(1).mean(1)) if pool == "gap" else (lambda x: x.flatten())
    for distance in ("squared_euclidean", "cosine"):
        head = make("prototype", pool=pool, distance=distance)
        for q in range(4):
            for k in range(3):
                p = torch.stack([shrink(m) for m in support[0, k]]).mean(0)
                x = shrink(query[0, q])
                want = -((x - p) ** 2).sum() if distance == "squared_euclidean" else x @ p / (x.norm() * p.norm())
                assert abs(head(support, query)[0, q, k] - want) < 1e-5


@pytest.mark.parametrize("norm", ["center", "cosine"])
def test_a_feature_of_length_zero_has_a_finite_gradient(norm):
    support, query = episode(3)
    query[0, 0, :, 0, 0] = 0
    support, query = support.requires_grad_(), query.requires_grad_()
    head = make("emd", "network_simplex", norm=norm)
    grads = torch.autograd.grad(head(support, query).sum(), (support, query))
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_match_gives_the_plan_behind_the_logit():
    support, query = episode(13, way=1, shot=1, queries=1, side=3)
    head = make("emd", pyramid=(2,))
    found = head.match(query[0, 0], support[0, 0, 0])
    assert found.flow.shape == (13, 13) and torch.allclose(found.flow.sum(1), found.supply, atol=1e-5)
    assert torch.allclose(found.flow.sum(0), found.demand, atol=1e-5)
    assert abs(12.5 * found.similarity - head(support, query)[0, 0, 0]) < 1e-4


def test_a_position_without_direction_is_like_nothing():
    support, query = episode(3)
    query[0, 0, :, 0, 0] = 5.0
    for name in ("emd", "knn", "full_connections", "fusion"):
        assert make(name)(support, query).abs().max() < 13


def test_cells_lie_where_the_nodes_of_a_map_and_its_pyramid_do():
    boxes = cells((2, 3), (1,))
    assert boxes[0].tolist() == [0, 0, 1, 1]
    assert torch.allclose(
        boxes[1:4], torch.tensor([[0, 0, 1 / 3, 0.5], [1 / 3, 0, 1 / 3, 0.5], [2 / 3, 0, 1 / 3, 0.5]])
    )
    assert torch.allclose(boxes[4], torch.tensor([0, 0.5, 1 / 3, 0.5])) and len(boxes) == 7


@pytest.mark.parametrize("options", [{}, {"shots": "nearest"}, {"pyramid": (2,)}])
def test_the_posed_problems_are_those_that_the_logits_come_from(monkeypatch, options):
    support, query = episode(5, side=3)
    head, seen = make("emd", **options), []
    solve = head.solver.solve
    monkeypatch.setattr(head.solver, "solve", lambda *given: seen.append(given) or solve(*given))
    head(support, query)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], head.pose(support, query), strict=True))
