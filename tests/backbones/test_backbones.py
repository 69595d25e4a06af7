"""Backbones of the Multi-Proxy Wasserstein classifier's tables: their sizes and costs, and how they are built."""

import math
from functools import cache

import pytest
import torch
from torch import nn

from fewshot_cli.backbones.cifar_resnet import CifarResNet, CifarResNetOptions
from fewshot_cli.backbones.conv64 import Conv64
from fewshot_cli.backbones.densenet import DenseNet, DenseNetOptions
from fewshot_cli.backbones.pyramidnet import PyramidNet, PyramidNetOptions
from fewshot_cli.backbones.resnet import ImageNetResNet, ImageNetResNetOptions
from fewshot_cli.backbones.wide_resnet import WideResNet, WideResNetOptions
from fewshot_cli.config.load import validate_options
from fewshot_cli.errors import RecipeError
from fewshot_cli.heads.classifiers.linear import Linear
from fewshot_cli.profiling.costs import count

NETWORKS = {
    "resnet20": (CifarResNet, {}, 32, 64, 8),
    "resnet110": (CifarResNet, {"depth": 110}, 32, 64, 8),
    "wrn_40_2": (WideResNet, {}, 32, 128, 8),
    "wrn_28_10": (WideResNet, {"depth": 28, "width": 10}, 32, 640, 8),
    "densenet": (DenseNet, {}, 32, 678, 8),
    "pyramidnet": (PyramidNet, {}, 32, 1024, 8),
    "resnet18": (ImageNetResNet, {"depth": 18}, 224, 512, 7),
    "resnet50": (ImageNetResNet, {}, 224, 2048, 7),
    "resnet101": (ImageNetResNet, {"depth": 101}, 224, 2048, 7),
}
SMALL = {
    "resnet": CifarResNetOptions(depth=20),
    "wrn": WideResNetOptions(depth=16),
    "densenet": DenseNetOptions(depth=22),
    "pyramidnet": PyramidNetOptions(depth=29, alpha=24),
    "resnet18": ImageNetResNetOptions(depth=18),
    "resnet50": ImageNetResNetOptions(),
}
CLASSES = {cls.Options: cls for cls, *_ in NETWORKS.values()}


def small(name):
    torch.manual_seed(0)
    return CLASSES[type(SMALL[name])](SMALL[name])


@cache
def classified(name, classes):
    """The network with a linear classifier, without storage."""
    cls, options, *_ = NETWORKS[name]
    with torch.device("meta"):
        backbone = cls(cls.Options(**options))
        return nn.Sequential(backbone, Linear(channels=backbone.channels, classes=classes))


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    "name, classes, millions",
    [
        ("resnet20", 10, "0.2697"),
        ("resnet20", 100, "0.2756"),
        ("resnet110", 10, "1.728"),
        ("resnet110", 100, "1.734"),
        ("wrn_40_2", 10, "2.24"),
        ("wrn_28_10", 10, "36.48"),
        ("wrn_28_10", 100, "36.54"),
        ("densenet", 10, "4.0685"),
        ("densenet", 100, "4.1296"),
        ("pyramidnet", 10, "26.752702"),
        ("pyramidnet", 100, "26.844952"),
        ("resnet18", 1000, "11.689512"),
        ("resnet50", 1000, "25.557032"),
        ("resnet101", 1000, "44.549160"),
    ],
)
def test_parameters_are_the_published_ones(name, classes, millions):
    parameters = sum(x.numel() for x in classified(name, classes).parameters())
    assert f"{parameters / 1e6:.{len(millions.split('.')[1])}f}" == millions


@pytest.mark.parametrize(
    "name, classes, bare, with_norms",
    [
        ("resnet20", 10, 40.55e6, 41.1e6),
        ("resnet110", 10, 252.9e6, 255.0e6),
        ("wrn_40_2", 10, 328e6, 329e6),
        ("wrn_28_10", 10, None, 5.248e9),
        ("densenet", 10, None, 1.348e9),
        ("pyramidnet", 10, None, 4.57e9),
        ("resnet18", 1000, 1.814e9, None),
        ("resnet50", 1000, 4.089e9, None),
        ("resnet101", 1000, 7.801e9, None),
    ],
)
def test_multiply_adds_are_the_published_ones_within_half_a_per_cent(name, classes, bare, with_norms):
    counts = count(classified(name, classes), NETWORKS[name][2])
    if bare:
        assert counts.multiply_adds == pytest.approx(bare, rel=0.005)
    if with_norms:
        assert counts.multiply_adds_bn == pytest.approx(with_norms, rel=0.005)


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_have_the_published_size(name):
    _, _, size, channels, side = NETWORKS[name]
    backbone = classified(name, 1000 if size == 224 else 10)[0]
    assert backbone.channels == channels
    assert backbone(torch.empty(2, 3, size, size, device="meta")).shape == (2, channels, side, side)


@pytest.mark.parametrize(
    "name, want",
    [("resnet", (9, 12)), ("wrn", (9, 12)), ("densenet", (8, 11)), ("pyramidnet", (9, 12)), ("resnet18", (2, 2))],
)
def test_sides_that_do_not_divide_are_rounded(name, want):
    with torch.device("meta"):
        backbone = small(name)
        maps = backbone(torch.empty(2, 3, 33, 46))
    assert maps.shape == (2, backbone.channels, *want)


@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_every_filter_of_the_first_convolution(name):
    backbone = small(name)
    side = 32 if isinstance(backbone, ImageNetResNet) else 8
    maps = backbone(torch.rand(2, 3, side, side))
    (maps * torch.randn_like(maps)).sum().backward()
    assert maps.isfinite().all() and all(x.grad is not None and x.grad.isfinite().all() for x in backbone.parameters())
    assert (convolutions(backbone)[0].weight.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("depth", [20, 110])
def test_option_a_adds_no_parameters(depth):
    with torch.device("meta"):
        backbone = CifarResNet(CifarResNetOptions(depth=depth))
    main = convolutions(backbone)
    assert len(main) == len(norms(backbone)) == depth - 1 and all(c.kernel_size == (3, 3) for c in main)
    n = (depth - 2) // 6
    pairs = (
        [(3, 16)] + [(16, 16)] * 2 * n + [(16, 32)] + [(32, 32)] * (2 * n - 1) + [(32, 64)] + [(64, 64)] * (2 * n - 1)
    )
    assert sum(x.numel() for x in backbone.parameters()) == sum(9 * i * o + 2 * o for i, o in pairs)


def test_option_a_takes_every_second_position_and_adds_zeros():
    backbone = CifarResNet(CifarResNetOptions(depth=14))
    x = torch.rand(2, 16, 7, 6)
    for norm in norms(backbone.blocks):
        nn.init.zeros_(norm.weight)
    y = backbone.blocks(x)
    assert (
        torch.equal(y[:, :16], x[:, :, ::2, ::2][:, :, ::2, ::2]) and y.shape == (2, 64, 2, 2) and not y[:, 16:].any()
    )


def test_pyramidnet_widens_with_every_block_and_its_shortcut_is_a_mean_with_zeros():
    with torch.device("meta"):
        backbone = PyramidNet()
    assert len(convolutions(backbone)) == 199
    widths = [block.conv2.out_channels for block in backbone.blocks]
    assert widths[:4] == [20, 23, 27, 31] and widths[-1] == 256 and len(widths) == 66
    assert {b - a for a, b in zip(widths, widths[1:], strict=False)} == {3, 4}
    assert [k for k, block in enumerate(backbone.blocks) if block.conv2.stride == (2, 2)] == [22, 44]

    small = PyramidNet(PyramidNetOptions(depth=11, alpha=9))
    x = torch.randn(2, 16, 8, 8)
    for block in small.blocks:
        nn.init.zeros_(block.bn4.weight)
    y = small.blocks(x)
    assert (
        torch.allclose(y[:, :16], nn.functional.avg_pool2d(x, 4), atol=1e-6)
        and y.shape[1] == 100
        and not y[:, 16:].any()
    )


@pytest.mark.parametrize("name", ["wrn", "densenet", "pyramidnet"])
def test_the_last_norm_and_relu_are_part_of_pre_activated_maps(name):
    backbone = small(name)
    last = norms(backbone)[-1]
    with torch.no_grad():
        last.weight.zero_()
        for bias, want in ((2.0, 2.0), (-1.0, 0.0)):
            last.bias.fill_(bias)
            assert (backbone(torch.rand(2, 3, 16, 16)) == want).all()


def test_a_wide_block_projects_its_activated_input_and_only_where_the_shape_changes():
    backbone = WideResNet(WideResNetOptions(depth=16, width=2)).eval()
    assert [b.shortcut is not None for b in backbone.blocks] == [True, False] * 3
    x = torch.randn(2, 32, 8, 8)
    wide, same = backbone.blocks[2], backbone.blocks[1]
    with torch.no_grad():
        wide.conv2.weight.zero_()
        same.conv2.weight.zero_()
        assert torch.equal(same(x), x)
        want = nn.functional.conv2d(x.clamp(min=0) / math.sqrt(1 + 1e-5), wide.shortcut.weight, stride=2)
        assert torch.allclose(wide(x), want, atol=1e-5)


def test_dropout_of_wide_resnets_is_off_by_default_and_in_evaluation():
    images = torch.rand(2, 3, 16, 16)
    for dropout, training, same in ((0.0, True, True), (0.3, True, False), (0.3, False, True)):
        backbone = WideResNet(WideResNetOptions(depth=10, dropout=dropout)).train(training)
        assert torch.equal(backbone(images), backbone(images)) == same


def test_dense_layers_keep_what_came_before_and_transitions_halve_it():
    backbone = DenseNet(DenseNetOptions(depth=10, growth=5))
    x = torch.rand(2, 10, 8, 8)
    y = backbone.blocks[1](backbone.blocks[0](x))
    assert y.shape == (2, 20, 8, 8) and torch.equal(y[:, :10], x)
    assert backbone.blocks[2](y).shape == (2, 10, 4, 4)
    assert backbone.channels == (20 // 2 + 10) // 2 + 10 and len(convolutions(backbone)) == 1 + 6 + 2


@pytest.mark.parametrize("depth, entries", [(18, 120), (50, 318), (101, 624)])
def test_imagenet_resnets_have_torchvisions_names(depth, entries):
    with torch.device("meta"):
        state = ImageNetResNet(ImageNetResNetOptions(depth=depth)).state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    want = {"conv1.weight", *(f"bn1.{x}" for x in norm)}
    convs, counts = (2, (2, 2, 2, 2)) if depth == 18 else (3, (3, 4, 6 if depth == 50 else 23, 3))
    for group, blocks in enumerate(counts, 1):
        for block in range(blocks):
            at = f"layer{group}.{block}"
            want |= {f"{at}.conv{c}.weight" for c in range(1, convs + 1)}
            want |= {f"{at}.bn{c}.{x}" for c in range(1, convs + 1) for x in norm}
            if not block and (group > 1 or depth > 18):
                want |= {f"{at}.downsample.0.weight", *(f"{at}.downsample.1.{x}" for x in norm)}
    assert set(state) == want and len(state) == entries
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["layer4.0.downsample.0.weight"].shape == ((512, 256, 1, 1) if depth == 18 else (2048, 1024, 1, 1))
    assert state["layer3.1.conv2.weight"].shape == (256, 256, 3, 3)


def test_a_bottleneck_has_its_stride_in_the_middle():
    with torch.device("meta"):
        block = ImageNetResNet().layer2[0]
    assert [c.stride for c in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("name", ["resnet", "wrn", "densenet", "pyramidnet", "resnet18"])
def test_initial_weights_are_kaimings_by_outputs(name):
    backbone = small(name)
    large = [c for c in convolutions(backbone) if c.weight.numel() > 4000]
    assert len(large) > 3
    for c in large:
        std = math.sqrt(2 / (c.out_channels * c.kernel_size[0] ** 2))
        assert c.weight.std().item() == pytest.approx(std, rel=0.1) and abs(c.weight.mean().item()) < 0.1 * std
    assert all((n.weight == 1).all() and not n.bias.any() for n in norms(backbone))


@pytest.mark.parametrize(
    "options, wrong, right",
    [
        (CifarResNetOptions, 21, 56),
        (WideResNetOptions, 20, 16),
        (DenseNetOptions, 41, 40),
        (PyramidNetOptions, 100, 164),
        (ImageNetResNetOptions, 34, 101),
    ],
)
def test_depths_that_do_not_exist_are_refused(options, wrong, right):
    assert validate_options(options, {"depth": right}, "mine.yaml").depth == right
    rule = "must be 18, 50 or 101" if options is ImageNetResNetOptions else r"must be [369]n \+ [24]"
    with pytest.raises(RecipeError, match=rf"depth: {rule}.*, not {wrong}"):
        validate_options(options, {"depth": wrong}, "mine.yaml")
    with pytest.raises(RecipeError, match="depth"):
        validate_options(
            options, {"depth": 2 if options in (CifarResNetOptions, PyramidNetOptions) else 4}, "mine.yaml"
        )


class Twice(nn.Module):
    """A strided grouped convolution, a norm used twice, and a linear layer with bias."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 5)

    def forward(self, images):
        return self.last(self.norm(self.norm(self.conv(images))).mean((2, 3)))


def test_counts_of_a_network_counted_by_hand():
    counts = count(Twice(), 8)
    assert counts.parameters == (6 * 9 + 6) + 12 + (30 + 5)
    assert counts.multiply_adds == 6 * 4 * 4 * 9 + 30
    assert counts.multiply_adds_bn == counts.multiply_adds + 2 * 2 * 6 * 4 * 4


def test_counting_changes_nothing():
    network = nn.Sequential(Conv64(), nn.Dropout(0.5))
    network[0].blocks[1].eval()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    modes, drawn = [m.training for m in network.modules()], torch.get_rng_state()
    assert count(network, 16).multiply_adds == 9 * (3 * 64 * 256 + 64 * 64 * (64 + 16 + 4))
    assert [m.training for m in network.modules()] == modes and torch.equal(torch.get_rng_state(), drawn)
    assert not any(m._forward_hooks for m in network.modules())
    assert all(x.device.type == "cpu" and torch.equal(x, before[name]) for name, x in network.state_dict().items())
    with pytest.raises(RuntimeError):
        count(network, 2)
    assert [m.training for m in network.modules()] == modes and not any(m._forward_hooks for m in network.modules())
