"""Wide residual networks for small images, with pre-activation (Zagoruyko and Komodakis, BMVC 2016)."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.backbones.layers import PreActivated, conv1x1, conv3x3, depth_rule
from fewshot_cli.contracts import Options

STEM = 16


class WideResNetOptions(Options):
    """Shape of the network."""

    depth: Annotated[int, depth_rule(6, 4)] = Field(
        40, ge=10, le=1204, description="convolutions, 6n + 4: n blocks of 2 per group; the paper has 16, 22, 28 and 40"
    )
    width: int = Field(2, ge=1, le=64, description="factor of the groups' channels 16-32-64; WRN-40-2, WRN-28-10")
    dropout: float = Field(0.0, ge=0, lt=1, description="share dropped between a block's convolutions in training")


class WideResNet(PreActivated):
    """WRN-depth-width of basic blocks B(3,3), the last batch norm and ReLU included (Zagoruyko and Komodakis, Table 1).

    images [N,3,H,W] → [N,64·width,⌈H/4⌉,⌈W/4⌉]: 32×32 gives 8×8, 128 channels for WRN-40-2 and 640 for WRN-28-10.
    """

    Options = WideResNetOptions
    trial = {"depth": 10}

    def __init__(self, options: WideResNetOptions | None = None) -> None:
        super().__init__(options)
        o = self.options
        layers, inputs = [], STEM
        for group, channels in enumerate((16, 32, 64)):
            for block in range((o.depth - 4) // 6):
                layers.append(_Block(inputs, channels * o.width, 2 if group and not block else 1, o.dropout))
                inputs = channels * o.width
        self.assemble(conv3x3(3, STEM), layers, inputs)


class _Block(nn.Module):
    """Twice batch norm, ReLU and convolution.

    Where the shape changes the shortcut is a 1×1 convolution of the first ReLU's values.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        self.drop = nn.Dropout(dropout)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else conv1x1(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        y = F.relu(self.bn2(self.conv1(active)), inplace=True)
        return self.conv2(self.drop(y)) + shortcut
