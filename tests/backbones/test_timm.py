"""Any model of timm as a backbone; nothing is downloaded, so their weights are random."""

import subprocess
import sys

import pytest
import torch

from fewshot_cli import registry
from fewshot_cli.backbones.timm import imported, saw
from fewshot_cli.config.load import load_recipe
from fewshot_cli.errors import RecipeError

Timm = registry.backbone("timm")


def made(model, **options):
    return Timm(Timm.Options(model=model, pretrained=False, **options)).eval()


@pytest.mark.parametrize(
    ("model", "options", "side", "shape"),
    [
        ("resnet10t", {}, 96, (512, 3, 3)),
        ("resnet10t", {"stage": 2}, 96, (128, 12, 12)),
        ("vit_tiny_patch16_224", {}, 96, (192, 6, 6)),  # without the class token
        ("vit_tiny_patch16_224", {"stage": 3}, 224, (192, 14, 14)),
        ("swin_tiny_patch4_window7_224", {"image": 96}, 96, (768, 3, 3)),
        ("mobilenetv3_small_050", {}, 96, (288, 3, 3)),  # narrower than what its classifier sees
    ],
)
def test_maps_of_networks_and_transformers(model, options, side, shape):
    backbone = made(model, **options)
    with torch.no_grad():
        maps = backbone(torch.rand(2, 3, side, side))
    assert tuple(maps.shape) == (2, *shape) and backbone.channels == shape[0]


def test_its_parameters_have_timms_names_and_its_mode_is_that_of_the_network():
    backbone, theirs = made("vit_tiny_patch16_224", drop_path=0.5), imported().create_model("vit_tiny_patch16_224")
    assert set(backbone.state_dict()) == {k for k in theirs.state_dict() if not k.startswith("head.")}
    images = torch.rand(2, 3, 224, 224)
    assert torch.equal(backbone(images), backbone(images))
    torch.manual_seed(0)
    backbone.train()
    assert backbone._network.training and not torch.equal(backbone(images), backbone(images))  # drop path
    assert not backbone.eval()._network.training


def test_constants_come_from_the_model_and_are_part_of_the_recipe():
    sets = ["backbone={name: timm, model: vit_tiny_patch16_224, pretrained: false}"]
    recipe = load_recipe("cub_5w1s", sets)
    assert recipe.image.mean == (0.5, 0.5, 0.5) and recipe.image.interpolation == "bicubic"
    assert (recipe.image.size, recipe.image.resize) == (224, 249) and recipe.weights is None
    assert load_recipe("cub_5w1s", ["backbone={name: timm, model: resnet10t}"]).weights == "own"
    kept = load_recipe("cub_5w1s", [*sets, "image.size=96"]).image
    assert (kept.size, kept.resize) == (96, None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "resnet19"}, "timm has no model 'resnet19'; near it are"),
        ({"model": "resnet18.mine"}, "resnet18 has no weights 'mine', but a1_in1k"),
        ({"model": "resnet10t", "pretrained": False, "stage": 9}, "resnet10t has no stage 9"),
        ({"model": "resnet10t", "pretrained": False, "image": 64}, r"does not take backbone\.image; leave it out"),
    ],
)
def test_what_timm_does_not_have_is_told(options, says):
    with pytest.raises(RecipeError, match=says):
        Timm(Timm.Options(**options))


def test_what_its_weights_have_seen_is_read_from_their_tag():
    assert saw("augreg_in21k_ft_in1k") == ("imagenet-21k", "imagenet-1k")
    assert saw("lvd142m") == ("lvd-142m",) and saw("something") == ("unknown",)


def test_search(fsl):
    code, out, _ = fsl("list", "backbones", "--timm", "resnet10*")
    assert code == 0 and "resnet10t" in out and "c3_in1k" in out
    code, _, err = fsl("list", "backbones", "--timm", "nothing_like_it")
    assert code == 2 and "timm has no such model" in err
    code, _, err = fsl("list", "heads", "--timm", "resnet10*")
    assert code == 2 and "fsl list backbones --timm" in err


def test_it_imports_beside_a_torchvision_of_another_build():
    """The one of this environment is such a one, or a whole one: both must do, before and after timm was tried."""
    program = "from fewshot_cli.backbones import timm; print(timm.imported().list_models('resnet10t'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "['resnet10t']", done.stderr
