"""ResNet-12 as few-shot learning uses it: four residual blocks of three 3×3 convolutions, each pooled by two."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Backbone, Options

Width = Annotated[int, Field(ge=1, le=4096)]


class ResNet12Options(Options):
    """Shape of the network."""

    widths: tuple[Width, Width, Width, Width] = Field(
        (64, 160, 320, 640), description="channels of the four blocks; DeepEMD's tables use 64-160-320-640"
    )
    last_pool: bool = Field(True, description="pool after the fourth block too: 84 → 5×5, without it 10×10")


class ResNet12(Backbone):
    """ResNet-12 with LeakyReLU 0.1, 1×1 shortcuts and no drop-out (DeepEMD, CVPR 2020, section 4.1 and Table 3).

    images [N,3,H,W] → [N,640,H/16,W/16]: 84×84 gives 5×5.
    """

    Options = ResNet12Options

    def __init__(self, options: ResNet12Options | None = None) -> None:
        super().__init__(options)
        widths = (3, *self.options.widths)
        pools = (True, True, True, self.options.last_pool)
        self.blocks = nn.Sequential(*(_Block(i, o, p) for i, o, p in zip(widths, widths[1:], pools, strict=False)))
        self.channels = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,d,h,w] of images [N,3,H,W]."""
        return self.blocks(images)


class _Block(nn.Module):
    """Three convolutions, a shortcut, and a pool after the last activation."""

    def __init__(self, inputs: int, outputs: int, pool: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [
                nn.Conv2d(inputs if i == 0 else outputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
            ]
            if i < 2:
                layers.append(nn.LeakyReLU(0.1, inplace=True))
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        # a monotone activation and a max pool commute; pooling first is cheaper
        self.end = nn.Sequential(nn.MaxPool2d(2) if pool else nn.Identity(), nn.LeakyReLU(0.1, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.body(x) + self.shortcut(x))
