"""The Multi-Proxy Wasserstein classifier against loops written from its paper, and the identities that follow from
it.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli import registry
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_classifier
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.heads.classifiers.multi_proxy import MultiProxy, MultiProxyOptions
from fewshot_cli.solvers.sinkhorn.scaling import scale
from fewshot_cli.solvers.sinkhorn.solver import Sinkhorn, SinkhornOptions

PAPER = {"regularisation": 0.1, "stop": "change", "tolerance": 0.1, "max_iterations": 100, "gradient": "unrolled"}


def make(solver=None, classes=5, d=8, seed=0, **options):
    torch.manual_seed(seed)
    own = Sinkhorn(SinkhornOptions(**{**PAPER, **(solver or {})}))
    return MultiProxy(MultiProxyOptions(**options), channels=d, classes=classes, solver=own)


def maps(count=3, d=8, side=4, seed=1):
    return torch.randn(count, d, side, side, generator=torch.Generator().manual_seed(seed)).relu() + 0.01


def algorithm_1(x, p, rounds, epsilon=0.1, power=1.0):
    """Score, plan and scalings after so many rounds of Algorithm 1 for features x [HW,d] and proxies p [M,d]."""
    cosine = F.normalize(x, dim=1) @ F.normalize(p, dim=1).T
    kernel = (-((1 - cosine) ** power) / epsilon).exp()
    alpha, beta, seen = torch.ones(len(x)), torch.ones(len(p)), []
    for _ in range(rounds):
        before = alpha
        alpha = (1 / len(x)) / (kernel @ beta)
        beta = (1 / len(p)) / (kernel.T @ alpha)
        seen.append((alpha - before).abs().mean())
    plan = alpha[:, None] * kernel * beta
    return (plan * (x @ p.T)).sum(), plan, torch.stack(seen)


def test_logits_are_those_of_algorithm_1_stopped_by_the_whole_batch():
    head, x = make({"regularisation": 0.5, "tolerance": 1e-4}, proxies=3, power=2.0), maps()
    changes = torch.stack([algorithm_1(f, p, 30, 0.5, 2.0)[2] for f in x.flatten(2).mT for p in head.proxies])
    rounds = int((changes.mean(0) < 1e-4).nonzero()[0]) + 1
    assert rounds > 1
    want = torch.stack(
        [torch.stack([algorithm_1(f, p, rounds, 0.5, 2.0)[0] for p in head.proxies]) for f in x.flatten(2).mT]
    )
    assert torch.allclose(head(x), want, atol=1e-5)
    plan = head.flow(head.products(x)[1])
    assert plan.iterations.tolist() == [rounds] * 15 and bool(plan.converged.all())
    assert torch.allclose(plan.flow.sum(1), torch.full((15, 3), 1 / 3), atol=1e-6)


def test_a_uniform_flow_and_a_single_proxy_are_the_linear_classifier():
    x = maps()
    uniform = make({"regularisation": 1e6}, proxies=4)
    pooled = x.flatten(2).mean(2)
    assert torch.allclose(uniform(x), pooled @ uniform.proxies.mean(1).T, atol=3e-6)
    single = make(proxies=1)
    assert torch.allclose(single(x), pooled @ single.proxies[:, 0].T, atol=3e-6)
    average = registry.classifier("multi_linear")(channels=8, classes=5)
    average.proxies.data = uniform.proxies.data
    assert torch.allclose(average(x), uniform(x), atol=3e-6)


def test_equal_proxies_stay_equal_and_drawn_ones_do_not():
    head, x = make(proxies=3), maps()
    assert len(head.proxies[0].unique(dim=0)) == 3 and float(head.proxies.detach().abs().max()) <= 1 / math.sqrt(8)
    head.proxies.data[:] = head.proxies.data[:, :1]
    F.cross_entropy(head(x), torch.tensor([0, 1, 2])).backward()
    assert (head.proxies.grad - head.proxies.grad[:, :1]).abs().max() < 1e-7 < head.proxies.grad.abs().max()


@pytest.mark.parametrize("stop", ["change", "change_each"])
def test_logarithms_and_kernels_agree(stop):
    rng = torch.Generator().manual_seed(0)
    cost = torch.rand(6, 16, 4, generator=rng)
    supply, demand = torch.full((6, 16), 1 / 16), torch.full((6, 4), 1 / 4)
    direct = scale(cost, supply, demand, 0.1, 40, 1e-6, stop == "change_each")
    # a cost that everything else outbids sends the same problems through logarithms
    far = torch.cat([cost, torch.full((6, 1, 4), 1e3)], 1)
    logs = scale(far, torch.cat([supply, torch.zeros(6, 1)], 1), demand, 0.1, 40, 1e-6, stop == "change_each")
    assert torch.allclose(direct[0], logs[0][:, :16], atol=1e-6) and logs[0][:, 16].abs().max() == 0
    tight = scale(cost, supply, demand, 0.005, 100, 1e-9, True)[0]  # where single precision has no kernel
    assert torch.isfinite(tight).all() and torch.allclose(tight.sum(1), demand, atol=1e-5)


def test_implicit_and_unrolled_gradients_agree_at_convergence_and_stop_has_none():
    grads = {}
    for gradient in ("unrolled", "implicit", "stop"):
        head = make({"gradient": gradient, "tolerance": 1e-9, "max_iterations": 300}).double()
        x = maps().double().requires_grad_()
        inner, cosine = (y.double() for y in head.products(x))
        plan = head.flow(cosine)
        (plan.flow.unflatten(0, inner.shape[:2]) * inner).sum((2, 3)).square().sum().backward()
        grads[gradient] = x.grad.flatten()
        assert plan.flow.requires_grad == (gradient != "stop")
    assert torch.allclose(grads["unrolled"], grads["implicit"], rtol=1e-4, atol=1e-7)
    assert F.cosine_similarity(grads["unrolled"], grads["stop"], dim=0) < 0.9999


def test_a_logit_does_not_hang_on_its_batch_where_problems_stop_each_for_itself():
    x = torch.cat([maps(2), 5 * maps(2, seed=2) ** 3])
    each, together = make({"stop": "change_each", "tolerance": 0.02}), make({"tolerance": 0.02})
    assert torch.allclose(each(x[:1]), each(x)[:1], atol=1e-6)
    assert len(set(each.flow(each.products(x)[1]).iterations.tolist())) > 1
    assert len(set(together.flow(together.products(x)[1]).iterations.tolist())) == 1


@pytest.mark.parametrize("solver", ["network_simplex", "pot", "sinkhorn", "pot_sinkhorn"])
def test_any_solver_gives_the_flow(solver):
    torch.manual_seed(0)
    head = build_classifier(
        default_part("classifiers", "multi_proxy"), 8, 5, default_part("solvers", solver), torch.device("cpu")
    )
    x = maps().requires_grad_()
    logits = head(x)
    flow = head.flow(head.products(x)[1]).flow
    assert logits.shape == (3, 5) and torch.allclose(flow.sum(2), torch.full((15, 16), 1 / 16), atol=1e-4)
    logits.square().sum().backward()
    assert head.proxies.grad.abs().sum() > 0 and x.grad.abs().sum() > 0


def test_learned_masses_cosine_scores_and_features_of_zero():
    head, x = make(marginals="learned", score="cosine", scale=10.0), maps()
    head.masses.data[:, 0] = 3.0
    demand = head.flow(head.products(x)[1]).flow.sum(1)
    assert torch.allclose(demand, head.masses.softmax(1).repeat(3, 1), atol=1e-5)
    F.cross_entropy(head(x), torch.tensor([0, 1, 2])).backward()
    assert head.masses.grad.abs().sum() > 0 and head(x).abs().max() <= 10
    assert torch.isfinite(make()(torch.zeros(2, 8, 4, 4))).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert make()(x).dtype == torch.float32


def test_rivals_are_what_the_papers_table_4_says():
    x, torch_linear = maps(), torch.nn.functional.linear
    cosine = registry.classifier("multi_linear")(
        registry.classifier("multi_linear").Options(combine="cosine", proxies=2), channels=8, classes=3
    )
    want = torch.zeros(3, 3)
    for n in range(3):
        for k in range(3):
            for f in x[n].flatten(1).T:
                for p in cosine.proxies[k]:
                    want[n, k] += F.cosine_similarity(f, p, dim=0) * (f @ p) / 32
    assert torch.allclose(cosine(x), want.detach(), atol=1e-5)
    flat = registry.classifier("flatten")(registry.classifier("flatten").Options(positions=16), channels=8, classes=3)
    assert torch.allclose(flat(x), torch_linear(x.flatten(1), flat.layer.weight, flat.layer.bias))
    with pytest.raises(DataError, match="write positions: 9"):
        flat(maps(side=3))
    bilinear = registry.classifier("bilinear")(channels=8, classes=3)
    second = torch.stack([(f @ f.T / 16).flatten() for f in x.flatten(2)])
    root = F.normalize(second.sign() * second.abs().sqrt(), dim=1)
    assert torch.allclose(bilinear(x), bilinear.layer(root), atol=1e-4)
    attention = registry.classifier("attention")(channels=8, classes=3).eval()
    seen = attention.attend(x)
    pooled = torch.stack([torch.stack([(a * f).mean() for a in seen[n] for f in x[n]]) for n in range(3)])
    root = F.normalize(pooled.sign() * pooled.abs().sqrt(), dim=1)
    assert torch.allclose(attention(x), attention.layer(root), atol=1e-4)


def test_a_solver_that_cannot_work_where_training_is_is_refused():
    spec, pot = default_part("classifiers", "multi_proxy"), default_part("solvers", "pot")
    with pytest.raises(RecipeError, match="solver pot takes no tensors on cuda"):
        build_classifier(spec, 8, 5, pot, torch.device("cuda"))
