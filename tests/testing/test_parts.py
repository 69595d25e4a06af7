"""Every installed backbone, head and classifier does what its contract says."""

import pytest
import torch

from fewshot_cli import registry
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_classifier, build_head


@pytest.mark.parametrize("name", sorted(registry.entries("backbones")))
def test_backbone_gives_maps_of_its_channels_for_any_size(name):
    cls = registry.backbone(name)
    small = {"pyramidnet": {"depth": 29}, "densenet": {"depth": 22}, "wide_resnet": {"depth": 10}}.get(name, {})
    backbone = cls(cls.Options(**small)).eval()
    sides = {}
    for side in (32, 64):
        with torch.no_grad():
            maps = backbone(torch.randn(2, 3, side, side))
        assert maps.shape[:2] == (2, backbone.channels) and maps.shape[2] == maps.shape[3]
        assert torch.isfinite(maps).all()
        sides[side] = maps.shape[2]
    assert sides[64] == 2 * sides[32]


@pytest.mark.parametrize("name", sorted(registry.entries("heads")))
@pytest.mark.parametrize("shot", [1, 3])
def test_head_is_batched_over_episodes_and_equivariant(name, shot):
    head = build_head(
        default_part("heads", name, **({"passes": 2} if name in ("sfc", "finetune") else {})),
        8,
        default_part("solvers", "pot"),
    ).eval()  # in training batch norm and dropout see the whole batch
    rng = torch.Generator().manual_seed(1)
    support, query = (torch.rand(2, 4, shot, 8, 3, 3, generator=rng), torch.rand(2, 7, 8, 3, 3, generator=rng))
    logits = head(support, query)
    assert logits.shape == (2, 7, 4)
    alone = torch.cat([head(s[None], q[None]) for s, q in zip(support, query, strict=True)])
    assert torch.allclose(logits, alone, atol=1e-4)
    if not head.transductive:
        assert torch.allclose(head(support, query[:, :2]), logits[:, :2], atol=1e-4)
    if name not in ("sfc", "finetune"):  # their fine-tuning order counts pictures, so a permuted class is another order
        order = torch.tensor([2, 0, 3, 1])
        assert torch.allclose(head(support[:, order], query), logits[:, :, order], atol=1e-4)
    assert torch.allclose(head(support, query), logits)  # no state between calls
    assert head(torch.rand(1, 2, shot, 8, 1, 5), torch.rand(1, 3, 8, 1, 5)).shape == (1, 3, 2)  # patches: h = 1


@pytest.mark.parametrize("name", sorted(registry.entries("classifiers")))
def test_classifier_gives_logits(name):
    options = {"positions": 4} if name == "flatten" else {}
    spec, solver = default_part("classifiers", name, **options), default_part("solvers", "sinkhorn")
    classifier = build_classifier(spec, 8, 5, solver, torch.device("cpu"))
    maps = torch.rand(3, 8, 2, 2)
    assert classifier(maps).shape == (3, 5)
    classifier(maps).sum().backward()
    assert all(p.grad is not None for p in classifier.parameters())


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_part_documents_itself_and_its_options(kind):
    for name, entry in registry.entries(kind).items():
        cls = entry.load()
        assert cls.__doc__, name
        cls.Options()  # every option has a default
        assert cls.Options.model_config["extra"] == "forbid" and cls.Options.model_config["frozen"]
