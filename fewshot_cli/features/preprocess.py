"""The fixed part of preprocessing: centre crop and standardisation."""

import torch
from torch import Tensor

from fewshot_cli.config.schema import ImageSpec
from fewshot_cli.runtime.device import onto


def normalise(images: Tensor, spec: ImageSpec) -> Tensor:
    """uint8 [N,3,S,S] → centre crop, float in [0,1], standardised: [N,3,size,size]."""
    edge = (images.shape[-1] - spec.size) // 2
    images = images[..., edge : edge + spec.size, edge : edge + spec.size]
    return standardise(images.float().div_(255), spec)


def standardise(x: Tensor, spec: ImageSpec) -> Tensor:
    """Images [N,3,H,W] in [0,1], in place, minus the mean and divided by the standard deviation of each colour."""
    mean, std = (onto(x.device, torch.tensor(v)).view(3, 1, 1) for v in (spec.mean, spec.std))
    return x.sub_(mean).div_(std)
