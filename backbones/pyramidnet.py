"""Pyramidal residual networks for small images: a little wider with every block (Han et al., CVPR 2017)."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.backbones.layers import PreActivated, conv1x1, conv3x3, depth_rule, widen
from fewshot_cli.contracts import Options

STEM = 16
EXPANSION = 4


class PyramidNetOptions(Options):
    """Shape of the network."""

    depth: Annotated[int, depth_rule(9, 2)] = Field(
        200, ge=11, le=1001, description="layers including the classifier, 9n + 2: n three-layer bottlenecks per group"
    )
    alpha: int = Field(240, ge=0, le=4096, description="channels that all blocks together add to the first 16")


class PyramidNet(PreActivated):
    """Additive PyramidNet of bottlenecks with zero-padded shortcuts (Han et al., CVPR 2017, section 2.1 and Figure 6d).

    The k-th of N blocks has 16 + αk/N channels, rounded once, and four times as many at its end; the second and the
    third group halve the map. The last batch norm and ReLU are included.
    images [N,3,H,W] → [N,4(16+α),⌈H/4⌉,⌈W/4⌉]: 32×32 gives 8×8, and 1024 channels for α = 240.
    """

    Options = PyramidNetOptions
    trial = {"depth": 29, "alpha": 12}

    def __init__(self, options: PyramidNetOptions | None = None) -> None:
        super().__init__(options)
        group = (self.options.depth - 2) // 9
        layers, inputs = [], STEM
        for k in range(3 * group):
            width = round(STEM + self.options.alpha * (k + 1) / (3 * group))
            layers.append(_Block(inputs, width, 2 if k in (group, 2 * group) else 1))
            inputs = EXPANSION * width
        self.assemble(nn.Sequential(conv3x3(3, STEM), nn.BatchNorm2d(STEM)), layers, inputs)


class _Block(nn.Module):
    """A bottleneck that begins and ends with batch norm, no ReLU before its first convolution nor after its last.

    The shortcut is a 2×2 mean where the block has a stride, with channels of zeros added.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.outputs = stride, EXPANSION * width
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv1x1(inputs, width)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv3x3(width, width, stride)
        self.bn3, self.conv3 = nn.BatchNorm2d(width), conv1x1(width, self.outputs)
        self.bn4 = nn.BatchNorm2d(self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv1(self.bn1(x))), inplace=True)
        y = F.relu(self.bn3(self.conv2(y)), inplace=True)
        shortcut = F.avg_pool2d(x, 2, ceil_mode=True) if self.stride == 2 else x
        return self.bn4(self.conv3(y)) + widen(shortcut, self.outputs)
