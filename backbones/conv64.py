"""Four convolution blocks of 64 channels, the small backbone of Vinyals et al. (2016) and Snell et al. (2017)."""

from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Backbone, Layout, Options, Step


class Conv64Options(Options):
    """Shape of the network."""

    channels: int = Field(64, ge=1, le=4096, description="width of every block")
    last_pool: bool = Field(True, description="pool after the fourth block too: 84 → 5×5, without it 10×10")
    third_pool: bool = Field(True, description="pool after the third block: without it and the last, 84 → 21×21")


def _layout(title: str, block: str, first: int) -> Layout:
    """A layout whose blocks, all of the same width, are named by a pattern with a number from `first`."""
    names = (block.format(b + first) for b in range(4))
    steps = (
        Step(f"{name}.0", f"{name}.1", f"blocks.{b}.0", f"blocks.{b}.1", 3, 0 if b else -1, 0)
        for b, name in enumerate(names)
    )
    return Layout(title, tuple(steps), lambda widths: {"channels": widths[0]})


class Conv64(Backbone[Conv64Options]):
    """[3×3 convolution, batch norm, 2×2 max pool, ReLU] × 4; the last two pools are optional.

    images [N,3,H,W] → [N,64,H/16,W/16], twice that for each pool left out. Pooling before the ReLU gives the same
    values as after it, since both are monotone, on a quarter of the elements.
    """

    layouts = (
        _layout("ConvNet by layers", "layer{}", 1),
        _layout("ConvNet of FEAT", "{}", 0),
        _layout("our conv64", "blocks.{}", 0),
    )

    def __init__(self, options: Conv64Options | None = None) -> None:
        super().__init__(options)
        self.channels = self.options.channels
        pools = (True, True, self.options.third_pool, self.options.last_pool)
        widths = (3, *[self.channels] * 4)
        self.blocks = nn.Sequential(*(_block(i, o, p) for i, o, p in zip(widths, widths[1:], pools, strict=False)))

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,d,h,w] of images [N,3,H,W]; H and W at least 16 (8 without the last pool)."""
        return self.blocks(images)


def _block(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))
