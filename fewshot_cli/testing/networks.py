"""The contracts of backbones and classifiers: checks that `fsl doctor --check backbone:NAME` and the tests run (see
`parts`).
"""

from typing import Any

import torch
from torch import Generator

from fewshot_cli import registry
from fewshot_cli.config.parts import build_classifier, default_solver
from fewshot_cli.contracts import Backbone, Classifier
from fewshot_cli.testing.case import require
from fewshot_cli.testing.trial import CHANNELS, CLASSES, NEAR, apart, saved_whole, trial


def _backbone(name: str) -> Backbone[Any]:
    torch.manual_seed(0)
    return registry.backbone(name)(trial("backbones", name).options).eval()


def _classifier(name: str) -> Classifier[Any]:
    torch.manual_seed(0)
    spec, device = trial("classifiers", name), torch.device("cpu")
    return build_classifier(spec, CHANNELS, CLASSES, default_solver(), device).eval()


def backbone_shapes(name: str) -> str | None:
    """Maps have `channels` channels, are square for square images, and twice as wide for images twice as wide."""
    backbone, sides = _backbone(name), []
    for side in (32, 64):
        with torch.no_grad():
            maps = backbone(torch.rand(2, 3, side, side))
        require(maps.ndim == 4 and len(maps) == 2, f"maps of two images are {list(maps.shape)}, not [2, d, h, w]")
        require(maps.shape[1] == backbone.channels, f"maps have {maps.shape[1]} channels, it says {backbone.channels}")
        require(maps.shape[2] == maps.shape[3], f"the map of a square image is {maps.shape[2]}×{maps.shape[3]}")
        require(torch.isfinite(maps), "maps are not finite")
        sides.append(maps.shape[2])
    require(sides[1] == 2 * sides[0], f"maps of images of 32 and 64 pixels are {sides[0]} and {sides[1]} wide")
    return None


@torch.no_grad()
def backbone_evaluation(name: str) -> str | None:
    """In evaluation an image's map depends neither on its batch, nor on an earlier call, nor on the memory format."""
    backbone, images = _backbone(name), torch.rand(3, 3, 32, 32, generator=Generator().manual_seed(1))
    maps = backbone(images)
    require(torch.equal(backbone(images), maps), "the same images give other maps the second time")
    scale = float(maps.abs().max().clamp(min=1))
    alone = torch.cat([backbone(image[None]) for image in images])
    require(apart(alone, maps) <= NEAR * scale, "an image's map depends on its batch")
    strided = backbone(images.contiguous(memory_format=torch.channels_last))
    require(apart(strided, maps) <= NEAR * scale, "images in channels-last memory give other maps")
    return None


def backbone_gradients(name: str) -> str | None:
    """In training a gradient reaches every parameter."""
    backbone = _backbone(name).train()
    if next(backbone.parameters(), None) is None:
        return "it has no parameters"
    backbone(torch.rand(4, 3, 64, 64)).square().sum().backward()
    for key, parameter in backbone.named_parameters():
        require(parameter.grad is not None, f"no gradient reaches its parameter {key}")
    return None


def backbone_saved(name: str) -> str | None:
    """Another one with its state dict gives the same maps."""
    images = torch.rand(2, 3, 32, 32, generator=Generator().manual_seed(1))
    saved_whole(_backbone(name), _backbone(name), lambda module: module(images))
    return None


def classifier_shapes(name: str) -> str | None:
    """Logits are [N,classes] and finite."""
    logits = _classifier(name)(torch.rand(3, CHANNELS, 2, 2))
    require(logits.shape == (3, CLASSES), f"logits are {list(logits.shape)}, not [3, {CLASSES}]")
    require(torch.isfinite(logits), "logits are not finite")
    return None


def classifier_gradients(name: str) -> str | None:
    """Gradients reach the maps and every parameter."""
    classifier, maps = _classifier(name).train(), torch.rand(3, CHANNELS, 2, 2).requires_grad_()
    classifier(maps).square().sum().backward()
    require(maps.grad is not None and bool(maps.grad.abs().sum() > 0), "no gradient reaches the maps")
    for key, parameter in classifier.named_parameters():
        require(parameter.grad is not None, f"no gradient reaches its parameter {key}")
    return None


def classifier_saved(name: str) -> str | None:
    """Another one with its state dict gives the same logits."""
    maps = torch.rand(3, CHANNELS, 2, 2, generator=Generator().manual_seed(1))
    saved_whole(_classifier(name), _classifier(name), lambda module: module(maps))
    return None


def classifier_cost(name: str) -> str | None:
    """`multiply_adds` is a positive whole number."""
    count = _classifier(name).multiply_adds(4)
    require(isinstance(count, int) and count > 0, f"multiply_adds is {count!r}, not a positive whole number")
    return None
