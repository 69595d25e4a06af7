"""The structured fully connected layer: what it learns, its presets, warm starts."""

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli import registry, transport
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_head


def make(name="sfc", solver="pot", d=6, **options):
    return build_head(default_part("heads", name, **options), d, default_part("solvers", solver)).eval()


def episode(seed: int, way=3, shot=3, queries=4, d=6, side=2):
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.rand(1, way, shot, d, side, side, generator=rng),
        torch.rand(1, queries, d, side, side, generator=rng),
    )


def test_sfc_equals_emd_before_learning_and_with_one_shot():
    support, query = episode(4)
    emd = make("emd")
    assert torch.allclose(make(passes=0)(support, query), emd(support, query), atol=1e-5)
    assert torch.allclose(make()(support[:, :, :1], query), emd(support[:, :, :1], query))


@pytest.mark.parametrize("weights", ["cross_reference", "equal"])
@pytest.mark.parametrize("gradient", ["flow", "full"])
def test_sfc_learning_equals_a_plain_sgd_loop_and_lowers_the_support_loss(gradient, weights):
    support, query = episode(5)
    head = make(passes=3, batch=4, lr=0.05, gradient=gradient, weights=weights)
    emd = make("emd", gradient=gradient, weights=weights)
    from fewshot_cli.heads.shared.batches import batches

    images = support[0].transpose(0, 1).flatten(0, 1)  # abcabcabc
    labels = torch.arange(3).repeat(3)
    layer, velocity = support[0].mean(1), None

    def loss_of(parameter, pick):
        return F.cross_entropy(emd(parameter[None, :, None], images[None, pick])[0], labels[pick])

    before = loss_of(layer, torch.arange(9))
    for pick in batches(9, 4, 3, None):
        layer = layer.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss_of(layer, pick), layer)
        velocity = grad if velocity is None else 0.9 * velocity + 0.1 * grad
        layer = layer - 0.05 * velocity
    layer = layer.detach()
    assert loss_of(layer, torch.arange(9)) < before
    assert torch.allclose(head(support, query), emd(layer[None, :, None], query), atol=1e-4)


def test_presets_are_papers_and_codes_and_give_way_to_what_is_named():
    options = registry.head("sfc").Options
    code, paper = options(), options(preset="paper")
    assert (code.passes, code.iterations, code.batch, code.lr, code.lr_training) == (100, None, 4, 100.0, 0.1)
    assert (paper.passes, paper.iterations, paper.batch) == (None, 100, 5)
    assert (
        options(preset="paper", passes=7, lr=3.0).model_dump()
        == options(preset="paper", passes=7, batch=5, lr=3.0).model_dump()
    )
    assert options(preset="paper", passes=7).iterations is None
    again = options(**{k: v for k, v in paper.model_dump().items() if v is not None})  # as --print-config is read back
    assert again == paper
    from fewshot_cli.heads.shared.batches import batches

    assert len(list(batches(25, 4, 100, None))) == 700  # seven steps per pass, the last of one image
    assert [len(x) for x in batches(25, 5, None, 100)] == [5] * 100


def test_learning_rate_of_training_is_used_while_training():
    support, query = episode(6)
    quick, slow = make(passes=2, lr=5.0, lr_training=0.01), make(passes=2, lr=0.01)
    assert not torch.allclose(quick(support, query), slow(support, query), atol=1e-3)
    assert torch.allclose(quick.train()(support, query), slow(support, query))


@pytest.mark.parametrize("gradient", ["flow", "full"])
def test_warm_starts_do_not_change_what_sfc_learns(monkeypatch, gradient):
    rng = torch.Generator().manual_seed(4)
    support = torch.randn(2, 3, 3, 16, 3, 3, generator=rng).relu()
    head = make(solver="network_simplex", d=16, passes=5, lr=1.0, gradient=gradient)
    layers = []
    for warm in (True, False):
        monkeypatch.setattr(type(head.solver), "warm_start", warm)
        with transport.ledger() as book:
            layers.append(head.learn(support.transpose(1, 2).flatten(1, 2), torch.arange(3).repeat(3)))
        layers.append(sum(int(x.sum()) for x in book.iterations))
    (first, pivots_warm, second, pivots_cold) = layers
    assert torch.allclose(first, second, atol=1e-4) and pivots_warm < pivots_cold


def test_classes_may_have_different_numbers_of_images():
    rng = torch.Generator().manual_seed(4)
    maps, labels = torch.rand(1, 5, 6, 2, 2, generator=rng), torch.tensor([0, 0, 0, 1, 1])
    layer = make(passes=0).learn(maps, labels)
    assert torch.allclose(layer[0, 0], maps[0, :3].mean(0).flatten(1).T) and layer.shape == (1, 2, 4, 6)


def test_the_ledger_knows_whose_problems_failed_when_few_episodes_are_learned_at_a_time(monkeypatch):
    from fewshot_cli.heads.sfc import flow

    monkeypatch.setattr(flow, "ROOM", 1)
    monkeypatch.setattr(flow, "SOME", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    rng = torch.Generator().manual_seed(4)
    support, query = torch.rand(5, 2, 2, 6, 2, 2, generator=rng), torch.rand(5, 3, 6, 2, 2, generator=rng)
    head = make(passes=1)
    solve = head.solver.solve

    def some_fail(cost, supply, demand):
        plan = solve(cost, supply, demand)
        hopeless = (cost[:, 0, 0] * 1e6).long() % 2 == 0
        plan.converged[:] = ~hopeless
        return plan

    head.solver.solve = some_fail
    with transport.ledger() as book:
        head(support, query)
    together = book.failures(5)
    alone = []
    for e in range(5):
        with transport.ledger() as book:
            head(support[e : e + 1], query[e : e + 1])
        alone += book.failures(1)
    assert together == alone and len(set(alone)) > 1


def test_a_printed_recipe_with_a_pyramid_is_read_back(fsl, tmp_path):
    code, out, err = fsl("eval", "--recipe", "glyphs_5w5s", "--set", "head.pyramid=[2,1]", "--print-config")
    assert code == 0, err
    (tmp_path / "again.yaml").write_text(out)
    assert fsl("recipe", "check", tmp_path / "again.yaml")[0] == 0
    code, _, err = fsl("eval", "--recipe", "glyphs_5w5s", "--set", "head.preset=[1]", "--print-config")
    assert code == 2 and "head.preset" in err
