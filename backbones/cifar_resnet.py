"""Residual networks for small images: three groups of 16, 32 and 64 channels (He et al., CVPR 2016, section 4.2)."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.backbones.layers import conv3x3, depth_rule, initialise, widen
from fewshot_cli.contracts import Backbone, Options

WIDTHS = (16, 32, 64)


class CifarResNetOptions(Options):
    """Shape of the network."""

    depth: Annotated[int, depth_rule(6, 2)] = Field(
        20, ge=8, le=1202, description="layers including the classifier, 6n + 2: n two-layer blocks per group; 20, 110"
    )
    map: int | None = Field(
        None, ge=1, le=64, description="side that the last map is pooled to; the multi-proxy paper mentions 4"
    )


class CifarResNet(Backbone[CifarResNetOptions]):
    """ResNet of 6n + 2 layers with option A's shortcuts, which have no parameters (He et al., CVPR 2016, Table 6).

    A 3×3 stem, then n blocks in each of three groups; the second and the third halve the map.
    images [N,3,H,W] → [N,64,⌈H/4⌉,⌈W/4⌉], 8×8 of 32×32, or [N,64,map,map].
    """

    trial = {"depth": 8}

    def __init__(self, options: CifarResNetOptions | None = None) -> None:
        super().__init__(options)
        blocks = (self.options.depth - 2) // 6
        self.stem = nn.Sequential(conv3x3(3, WIDTHS[0]), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True))
        layers, inputs = [], WIDTHS[0]
        for group, width in enumerate(WIDTHS):
            for block in range(blocks):
                layers.append(_Block(inputs, width, 2 if group and not block else 1))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.channels = inputs
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,64,h,w] of images [N,3,H,W]."""
        maps = self.blocks(self.stem(images))
        return F.adaptive_avg_pool2d(maps, self.options.map) if self.options.map else maps


class _Block(nn.Module):
    """Two convolutions; the shortcut takes every `stride`-th position and adds channels of zeros (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.outputs = stride, outputs
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(y + widen(x[:, :, :: self.stride, :: self.stride], self.outputs), inplace=True)
