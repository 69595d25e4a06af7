"""The head align against loops written from its paper, in every option; pieces change nothing; what must hold holds."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli import transport
from fewshot_cli.contracts import Aligns, Plan, Solver
from fewshot_cli.heads.align.head import Align, AlignOptions
from fewshot_cli.heads.align.modules import Foreground, sample
from fewshot_cli.solvers.network_simplex.solver import NetworkSimplex
from fewshot_cli.solvers.sinkhorn.solver import Sinkhorn, SinkhornOptions

D, H, W = 6, 3, 4


def made(seed=0, solver=None, **options):
    torch.manual_seed(seed)
    head = Align(AlignOptions(**options), channels=D, solver=solver).double()
    with torch.no_grad():  # nothing may hide behind zeros or ones
        for p in head.parameters():
            p.add_(0.2 * torch.randn(p.shape, dtype=torch.float64))
    return head


def maps(way=3, shot=2, q=4, episodes=2, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(episodes, way, shot, D, H, W, generator=rng, dtype=torch.float64),
        torch.randn(episodes, q, D, H, W, generator=rng, dtype=torch.float64),
    )


def bilinear(x, py, px):
    """x [d,h,w] at a point in pixels, zero outside."""
    out = torch.zeros(len(x), dtype=x.dtype)
    for iy, ix in itertools.product((int(py // 1), int(py // 1) + 1), (int(px // 1), int(px // 1) + 1)):
        if 0 <= iy < x.shape[1] and 0 <= ix < x.shape[2]:
            out = out + x[:, iy, ix] * (1 - abs(py - iy)) * (1 - abs(px - ix))
    return out


def naive(head, support, query):
    """Logits by loops over episodes, queries, classes and shots; the modules of learned weights are the head's own, in
    evaluation.
    """
    o, out = head.options, torch.zeros(*query.shape[:2], support.shape[1], dtype=torch.float64)

    def foreground(f):
        g = f[None]
        for layer in head.foreground.block:
            g = layer(g)
        if o.deform_residual and o.deform != "none":
            g = g + f[None]
        g = g[0]
        if o.mask:
            u = F.normalize(g.mean((1, 2)), dim=0)
            g = g.clone()
            for y, x in itertools.product(range(H), range(W)):
                g[:, y, x] *= ((u * F.normalize(g[:, y, x], dim=0)).sum() + 1) / 2
        return g

    def carry(values, key_s, key_q):
        if o.correspondence == "none":
            return values
        kq, ks = key_q.flatten(1), key_s.flatten(1)
        m = torch.stack(
            [torch.stack([F.cosine_similarity(kq[:, i], ks[:, j], dim=0) for j in range(H * W)]) for i in range(H * W)]
        )
        if o.correspondence == "plan":
            even = torch.full((1, H * W), 1 / (H * W), dtype=torch.float64)
            weights = H * W * head.solver.solve((1 - m)[None], even, even).flow[0]
        else:
            tau = head.correspondence.temperature.exp() if o.learn_temperature else o.temperature
            e = (m / tau).exp()
            weights = e / (e.sum(1, keepdim=True) if o.softmax_over == "support" else e.sum(0, keepdim=True))
        flat = values.flatten(1)
        return torch.stack([sum(weights[i, j] * flat[:, j] for j in range(H * W)) for i in range(H * W)], 1).unflatten(
            1, (H, W)
        )

    def move(aligned, q):
        if not o.manipulate:
            return aligned
        p = head.offsets
        joined = torch.cat([p.support.weight, p.query.weight], 1)
        x = F.conv2d(torch.cat([aligned, q])[None], joined, padding=1)
        shift = p.last(F.relu(p.norms[1](p.middle(F.relu(p.norms[0](x)))))).tanh()[0]
        most_x, most_y = o.offset_scale * (W - 1) / 2, o.offset_scale * (H - 1) / 2
        if o.offset_pixels is not None:
            most_x = most_y = o.offset_pixels
        return torch.stack(
            [
                bilinear(
                    aligned, y + float(shift[1, y, x].detach()) * most_y, x + float(shift[0, y, x].detach()) * most_x
                )
                for y in range(H)
                for x in range(W)
            ],
            1,
        ).unflatten(1, (H, W))

    def apart(a, b):
        if o.reduce == "gap":
            a, b = a.mean((1, 2)), b.mean((1, 2))
        square = (a - b).square().sum()
        if o.reduce == "mean":
            square = square / (H * W)
        return square.sqrt() if o.distance == "euclidean" else square

    embed = head.correspondence.embed if o.correspondence != "none" else None
    for e, n, c in itertools.product(range(len(query)), range(query.shape[1]), range(support.shape[1])):
        q, shots = foreground(query[e, n]), [foreground(s) for s in support[e, c]]
        if o.shots == "before":
            shots = [sum(shots) / len(shots)]
        keys = [embed(s[None])[0] if embed is not None else s for s in shots]
        key_q = embed(q[None])[0] if embed is not None else q
        if o.values == "embedded" and embed is not None:
            q, shots = key_q, keys
        aligned = [move(carry(s, k, key_q), q) for s, k in zip(shots, keys, strict=True)]
        if o.shots == "after":
            aligned = [sum(aligned) / len(aligned)]
        out[e, n, c] = -head.scale * sum(apart(a, q) for a in aligned) / len(aligned)
    return out


VARIANTS = [
    {},
    {"scale": 0.3},
    {"mask": False, "deform": "none"},
    {"deform": "v2", "deform_layers": 2, "deform_residual": True},
    {"deform": "plain"},
    {"softmax_over": "query", "temperature": 0.1},
    {"learn_temperature": True, "temperature": 0.5},
    {"embed": False},
    {"embed_channels": 4, "values": "embedded"},
    {"embed": False, "values": "embedded"},
    {"manipulate": False},
    {"correspondence": "none"},
    {"correspondence": "none", "manipulate": False},
    {"correspondence": "none", "manipulate": False, "reduce": "gap"},
    {"offset_scale": 0.3},
    {"offset_pixels": 1.5, "offset_channels": 3},
    {"distance": "euclidean"},
    {"distance": "euclidean", "reduce": "sum"},
    {"reduce": "sum"},
    {"reduce": "gap"},
    {"distance": "euclidean", "correspondence": "none", "manipulate": False},
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "default")
@pytest.mark.parametrize("shots", ["before", "after", "score"])
def test_logits_are_those_of_loops(options, shots):
    head = made(shots=shots, **options).eval()
    support, query = maps()
    with torch.no_grad():
        want = naive(head, support, query)
        assert torch.allclose(head(support, query), want, atol=1e-9), (head(support, query) - want).abs().max()
        pieces = made(shots=shots, chunk=5, **options).eval()
        assert torch.allclose(pieces(support, query), want, atol=1e-9)
    assert float(want.std()) > 1e-3


@pytest.mark.parametrize("shots", ["before", "after", "score"])
def test_a_solver_s_plan_takes_the_softmax_s_place(shots):
    support, query = maps()
    head = made(correspondence="plan", shots=shots, solver=NetworkSimplex()).eval()
    assert torch.allclose(head(support, query), naive(head, support, query), atol=1e-7)
    assert made(solver=NetworkSimplex()).solver is None  # the softmax needs none
    with transport.ledger() as book:
        found = head.align(query[0, 0], support[0, 0, 0])
    assert len(torch.cat(book.converged)) == 1
    assert torch.allclose(found.weights.sum(1), torch.ones(H * W).double(), atol=1e-6)
    assert torch.allclose(found.weights.sum(0), torch.ones(H * W).double(), atol=1e-6)  # every support position is used
    # an exact plan does not move with the correlations: g is not trained, unless its output is what is compared
    assert not any(p.requires_grad for p in head.correspondence.embed.parameters())
    assert all(
        p.requires_grad for p in made(correspondence="plan", values="embedded", solver=NetworkSimplex()).parameters()
    )
    soft = Sinkhorn(SinkhornOptions(regularisation=0.5, gradient="unrolled"))
    head = made(correspondence="plan", shots=shots, solver=soft)
    grads = torch.autograd.grad(head(support, query).sum(), list(head.correspondence.embed[0].parameters()))
    assert all(float(g.abs().max()) > 0 for g in grads)


class Lazy(Solver):
    """Gives up on problems whose first cost is large."""

    def solve(self, cost, supply, demand):
        flow = supply[:, :, None] * demand[:, None] / demand.sum(1)[:, None, None]
        bad = cost[:, 0, 0] > 0.3
        return Plan(flow, None, None, torch.ones(len(cost), dtype=torch.int64), ~bad)


def test_what_a_solver_gave_up_on_is_told_for_each_episode_whatever_the_pieces():
    support, query = maps(episodes=3)
    told = []
    for chunk in (None, 5, 1):
        head = made(
            correspondence="plan", embed=False, chunk=chunk, solver=Lazy(), manipulate=False, shots="after"
        ).eval()
        with transport.ledger() as book, torch.no_grad():
            head(support, query)
        told.append(book.failures(3))
    assert told[0] == told[1] == told[2] and len(set(told[0])) > 1


@pytest.mark.parametrize(
    "options", [{}, {"manipulate": False}, {"shots": "after"}, {"correspondence": "plan", "shots": "score"}]
)
def test_pieces_change_neither_logits_nor_gradients_in_training(options):
    support, query = maps()
    found = []
    for chunk in (None, 7):
        solver = (
            Sinkhorn(SinkhornOptions(regularisation=0.5, gradient="unrolled")) if "correspondence" in options else None
        )
        head = made(chunk=chunk, solver=solver, **options).train()
        leaves = [support.clone().requires_grad_(), query.clone().requires_grad_()]
        logits = head(*leaves)
        names = [name for name, _ in head.named_parameters()]
        grads = torch.autograd.grad(logits.square().sum(), [*leaves, *head.parameters()])
        running = [b.clone() for b in head.buffers()]
        found.append((logits, grads, running))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-10)
    for name, a, b in zip(["support", "query", *names], found[0][1], found[1][1], strict=True):
        assert torch.allclose(a, b, atol=1e-8), name
        if not name.endswith("correspondence.embed.3.bias"):
            assert float(a.abs().max()) > 1e-9, name
    assert all(torch.allclose(a.double(), b.double()) for a, b in zip(found[0][2], found[1][2], strict=True))


def test_gradients_agree_with_finite_differences():
    support, query = maps(way=2, shot=1, q=2, episodes=1)
    head = made().eval()
    assert torch.autograd.gradcheck(head, (support.requires_grad_(), query.requires_grad_()), atol=1e-5)


def test_the_number_of_pairs_in_a_piece_follows_the_free_memory(monkeypatch):
    import fewshot_cli.heads.align.head as module

    head, (support, query), sizes = made(manipulate=False).eval(), maps(), []
    inner = head.correspondence.forward
    monkeypatch.setattr(head.correspondence, "forward", lambda q, s: sizes.append(len(q)) or inner(q, s))
    want = head(support, query)
    assert sizes == [24]
    one = 4 * H * W * (4 * H * W + 6 * D)
    monkeypatch.setattr(module, "free_memory", lambda _: 4 * 9 * one)
    sizes.clear()
    assert torch.allclose(head(support, query), want) and sizes == [9, 9, 6]
    monkeypatch.setattr(module, "free_memory", lambda _: 0)
    assert torch.allclose(head(support, query), want)  # a pair at a time is the least


def test_no_offset_is_the_identity_and_a_whole_position_is_a_shift():
    x = torch.randn(2, D, H, W, dtype=torch.float64)
    nothing = torch.zeros(2, H, W, 2, dtype=torch.float64)
    assert torch.allclose(sample(x, nothing), x, atol=1e-12)
    right = nothing.clone()
    right[..., 0] = 2 / (W - 1)
    moved = sample(x, right)
    assert torch.allclose(moved[..., :-1], x[..., 1:], atol=1e-12) and float(moved[..., -1].abs().max()) < 1e-12
    row = torch.randn(1, D, 1, W)
    assert torch.allclose(sample(row, torch.zeros(1, 1, W, 2)), row)


def test_ssm_changes_nothing_at_first_unless_asked_to():
    support, query = maps()
    torch.manual_seed(0)
    with_it = Align(AlignOptions(), channels=D).double().eval()
    without = Align(AlignOptions(manipulate=False), channels=D).double().eval()
    without.load_state_dict({k: v for k, v in with_it.state_dict().items() if not k.startswith("offsets")})
    assert torch.allclose(with_it(support, query), without(support, query), atol=1e-10)
    moving = Align(AlignOptions(offset_zero=False), channels=D).double().eval()
    moving.load_state_dict(
        {**with_it.state_dict(), **{k: v for k, v in moving.state_dict().items() if k.startswith("offsets")}}
    )
    assert not torch.allclose(moving(support, query), without(support, query), atol=1e-3)


def test_uniform_correlations_give_the_mean_and_the_mask_lies_between_nothing_and_one():
    head = made(temperature=1000.0, embed=False).eval()
    support, query = maps()
    found = head.align(query[0, 0], support[0, 0, 0])
    before, carried, moved = (stage.map for stage in found.stages)
    assert torch.allclose(carried, before.mean((1, 2), keepdim=True).expand(-1, H, W), atol=2e-3)
    attention = Foreground.attention(query[0])
    assert attention.shape == (4, H, W) and 0 <= float(attention.min()) < float(attention.max()) <= 1
    assert torch.allclose(Foreground.attention(torch.ones(1, D, H, W)), torch.ones(1, H, W))
    assert isinstance(head, Aligns) and found.query.shape == moved.shape == (D, H, W)


def test_align_shows_what_the_logit_is_made_of():
    head, (support, query) = made().eval(), maps(shot=1)
    found = head.align(query[1, 2], support[1, 0, 0])
    distance = (found.stages[-1].map - found.query).square().sum() / (H * W)
    assert torch.allclose(-head.scale * distance, head(support, query)[1, 2, 0], atol=1e-10)
    bare = made(correspondence="none", manipulate=False).eval().align(query[0, 0], support[0, 0, 0])
    assert bare.weights is None and torch.equal(bare.stages[1].map, bare.stages[0].map)


def test_the_largest_tensors_are_counted():
    assert made().elements(5, 5, 15, 100) == 5 * 5 * 15 * 100 * 100
    assert made(shots="score").elements(5, 5, 15, 4) == 5 * 5 * 15 * 5 * 4 * 6
    assert made(correspondence="none", manipulate=False).elements(5, 5, 15, 4) == 5 * 5 * 15


def test_two_ranges_of_offsets_are_refused():
    with pytest.raises(ValueError, match="leave one out"):
        AlignOptions(offset_pixels=1.0, offset_scale=0.5)
