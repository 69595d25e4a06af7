"""Residual networks for ImageNet's images (He et al., CVPR 2016, Table 1), with torchvision's names of parameters."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.backbones.layers import conv1x1, conv3x3, initialise
from fewshot_cli.contracts import Backbone, Options

STEM = 64
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class ImageNetResNetOptions(Options):
    """Shape of the network."""

    depth: Literal[18, 50, 101] = Field(50, description="layers with the classifier; 18 has basic blocks")
    stem: Literal["imagenet", "cifar"] = Field(
        "imagenet", description="7×7 with stride 2 and a pool, or, for small images, 3×3 with stride 1"
    )


class ImageNetResNet(Backbone[ImageNetResNetOptions]):
    """ResNet-18, 50 or 101 as torchvision has them, without the classifier (He et al., CVPR 2016, Table 1).

    A bottleneck's stride is in its 3×3 convolution (version 1.5). Parameters are called `conv1.weight`,
    `layer1.0.conv1.weight`, `layer2.0.downsample.0.weight` and so on: a checkpoint of torchvision fits once its `fc` is
    left out. images [N,3,H,W] → [N,d,⌈H/32⌉,⌈W/32⌉]: 224×224 gives 7×7; d is 512 for depth 18, else 2048. With the stem
    for small images it is ⌈H/8⌉: 32×32 gives 4×4.
    """

    trial = {"depth": 18}

    def __init__(self, options: ImageNetResNetOptions | None = None) -> None:
        super().__init__(options)
        depth = self.options.depth
        block: type[_Basic] | type[_Bottleneck] = _Basic if depth == 18 else _Bottleneck
        small = self.options.stem == "cifar"
        self.conv1 = conv3x3(3, STEM) if small else nn.Conv2d(3, STEM, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.channels = STEM
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            self._group(block, STEM << group, count, 2 if group else 1) for group, count in enumerate(BLOCKS[depth])
        )
        initialise(self)

    def _group(self, block: "type[_Basic] | type[_Bottleneck]", width: int, count: int, stride: int) -> nn.Sequential:
        layers = []
        for number in range(count):
            layers.append(block(self.channels, width, 1 if number else stride))
            self.channels = width * block.expansion
        return nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,d,h,w] of images [N,3,H,W]."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        if self.options.stem == "imagenet":
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class _Basic(nn.Module):
    """Two 3×3 convolutions, the stride in the first."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.downsample = _projection(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class _Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, the stride in the second, four times as many channels at the end."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1, self.bn1 = conv1x1(inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv1x1(width, outputs), nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The shortcut: nothing, or a 1×1 convolution and batch norm where the shape changes (option B)."""
    if inputs == outputs and stride == 1:
        return nn.Sequential()
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
