"""Densely connected networks for small images (Huang et al., CVPR 2017)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.backbones.layers import PreActivated, conv1x1, conv3x3, depth_rule
from fewshot_cli.contracts import Options


class DenseNetOptions(Options):
    """Shape of the network."""

    depth: Annotated[int, depth_rule(3, 4)] = Field(
        100, ge=7, le=1000, description="layers including the classifier, 3n + 4: n convolutions per dense block"
    )
    growth: int = Field(12, ge=1, le=1024, description="channels that each layer adds; the stem has twice as many")


class DenseNet(PreActivated):
    """DenseNet-C: layers of one 3×3 convolution, transitions that halve channels and map (Huang et al., section 3).

    Three dense blocks, no bottleneck, the last batch norm and ReLU included. This is neither the paper's plain network
    (no compression) nor its DenseNet-BC: with depth 100 and growth 12 it has the 4.07 M parameters and 1.35 G
    multiply-adds of the Multi-Proxy Wasserstein classifier's table.
    images [N,3,H,W], H and W at least 4, → [N,678,H/4,W/4] for depth 100 and growth 12: 32×32 gives 8×8.
    """

    Options = DenseNetOptions
    trial = {"depth": 10}

    def __init__(self, options: DenseNetOptions | None = None) -> None:
        super().__init__(options)
        growth = self.options.growth
        channels = 2 * growth
        stem = conv3x3(3, channels)
        layers: list[nn.Module] = []
        for block in range(3):
            if block:
                layers.append(_Transition(channels, channels // 2))
                channels //= 2
            for _ in range((self.options.depth - 4) // 3):
                layers.append(_Layer(channels, growth))
                channels += growth
        self.assemble(stem, layers, channels)


class _Layer(nn.Module):
    """x [N,d,h,w] → x and `growth` channels made from it, [N,d+growth,h,w]."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), conv3x3(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x), inplace=True))], dim=1)


class _Transition(nn.Module):
    """Batch norm, ReLU, a 1×1 convolution to fewer channels and a 2×2 mean."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), conv1x1(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x), inplace=True)), 2)
