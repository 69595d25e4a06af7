"""Residual networks as few-shot learning uses them: four blocks of 3×3 convolutions, each pooled by two."""

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Backbone, Layout, Options, Step

Width = Annotated[int, Field(ge=1, le=4096)]


class ResNet12Options(Options):
    """Shape of the network."""

    widths: tuple[Width, Width, Width, Width] = Field(
        (64, 160, 320, 640), description="channels of the four blocks; DeepEMD's tables use 64-160-320-640"
    )
    last_pool: bool = Field(True, description="pool after the fourth block too: 84 → 5×5, without it 10×10")
    drop: float = Field(
        0.0, ge=0, lt=1, description="share dropped in training: values after blocks 1 and 2, squares after 3 and 4"
    )
    drop_size: int = Field(5, ge=1, le=100, description="side of the squares that DropBlock drops")


class DropBlock(nn.Module):
    """Drops squares of a map in training, separately for each channel, and scales up the rest (Ghiasi et al. 2018).

    A share `drop` of the values is dropped, somewhat less where squares overlap. Maps smaller than a square are
    dropped by squares of their own side.
    """

    def __init__(self, drop: float, size: int) -> None:
        super().__init__()
        self.drop, self.size = drop, size

    def forward(self, x: Tensor) -> Tensor:
        """x [N,d,h,w] of any size."""
        if not self.training or not self.drop:
            return x
        h, w = x.shape[2:]
        size = min(self.size, h, w)
        rate = self.drop * h * w / size**2 / ((h - size + 1) * (w - size + 1))
        corners = torch.rand(*x.shape[:2], h - size + 1, w - size + 1, device=x.device) < rate
        gone = F.max_pool2d(F.pad(corners.to(x.dtype), [size - 1] * 4), size, stride=1)
        keep = 1 - gone
        return x * keep * (keep.numel() / keep.sum().clamp(min=1))


def _steps(block: str, conv: str, norm: str, shortcut: str, first: int, number: int, before: int) -> Iterator[Step]:
    """The convolutions of four residual blocks, each of a `number` and a shortcut, the first on the width `before`.

    Names in the checkpoint are patterns of the block's number and of the convolution's, both counted from `first`, and
    of its place among a block's layers.
    """
    for b in range(4):
        there, here, inputs = block.format(b + first), f"blocks.{b}.", b - 1 if b else before
        for i in range(number):
            yield Step(
                there + conv.format(i + first, 3 * i),
                there + norm.format(i + first, 3 * i + 1),
                f"{here}body.{3 * i}",
                f"{here}body.{3 * i + 1}",
                3,
                b if i else inputs,
                b,
            )
        theirs, ours = there + shortcut, f"{here}shortcut"
        yield Step(f"{theirs}.0", f"{theirs}.1", f"{ours}.0", f"{ours}.1", 1, inputs, b)


def _own(number: int, before: int) -> Iterator[Step]:
    return _steps("blocks.{}.", "body.{1}", "body.{1}", "shortcut", 0, number, before)


def _layout(title: str, *steps: Step) -> Layout:
    return Layout(title, steps, lambda widths: {"widths": widths})


class ResNet12(Backbone[ResNet12Options]):
    """ResNet-12 with LeakyReLU 0.1 and 1×1 shortcuts (DeepEMD, CVPR 2020, section 4.1 and Table 3), drop-out if wanted.

    images [N,3,H,W] → [N,640,H/16,W/16]: 84×84 gives 5×5.
    """

    trial = {"widths": (8, 12, 16, 20)}
    layouts = (
        _layout("ResNet-12 of DeepEMD and FEAT", *_steps("layer{}.0.", "conv{0}", "bn{0}", "downsample", 1, 3, -1)),
        _layout("our resnet12", *_own(3, -1)),
    )

    def __init__(self, options: ResNet12Options | None = None) -> None:
        super().__init__(options)
        o = self.options
        drops: list[nn.Module] | None = None
        if o.drop:
            drops = [*[nn.Dropout(o.drop)] * 2, *[DropBlock(o.drop, o.drop_size)] * 2]
        self.blocks = _blocks(3, o.widths, 3, _leaky, o.last_pool, drops)
        self.channels = self.options.widths[-1]
        _initialise(self, nonlinearity="leaky_relu", a=0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,d,h,w] of images [N,3,H,W]."""
        return self.blocks(images)


class ResNet10Options(Options):
    """Shape of the network."""

    widths: tuple[Width, Width, Width, Width] = Field(
        (64, 128, 256, 512), description="channels of the four blocks; the stem has those of the first"
    )
    last_pool: bool = Field(True, description="pool after the fourth block too: 84 → 5×5, without it 10×10")


class ResNet10(Backbone[ResNet10Options]):
    """ResNet-10 with ReLU: a reading of the 10-layer network that DeepEMD's text (CVPR 2020, section 4.1) names.

    The paper gives only its depth and its output, 5×5×512 for 84×84; its tables and code use ResNet-12. Here: a 3×3
    stem of 64 channels, four residual blocks of two 3×3 convolutions with a 1×1 shortcut and a 2×2 max pool,
    64-128-256-512 wide: 1 + 8 convolutions and the classifier make 10 layers, and 84 → 42 → 21 → 10 → 5. images
    [N,3,H,W] → [N,512,H/16,W/16].
    """

    trial = {"widths": (8, 12, 16, 20)}
    layouts = (_layout("our resnet10", Step("stem.0", "stem.1", "stem.0", "stem.1", 3, -1, 0), *_own(2, 0)),)

    def __init__(self, options: ResNet10Options | None = None) -> None:
        super().__init__(options)
        first = self.options.widths[0]
        self.stem = nn.Sequential(*_convolution(3, first), nn.ReLU(inplace=True))
        self.blocks = _blocks(first, self.options.widths, 2, _relu, self.options.last_pool)
        self.channels = self.options.widths[-1]
        _initialise(self, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,d,h,w] of images [N,3,H,W]."""
        return self.blocks(self.stem(images))


class _Block(nn.Module):
    """A number of convolutions, a shortcut, and a pool after the last activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        convolutions: int,
        activation: Callable[[], nn.Module],
        pool: bool,
        drop: nn.Module,
    ) -> None:
        super().__init__()
        layers = _convolution(inputs, outputs)
        for _ in range(convolutions - 1):
            layers += [activation(), *_convolution(outputs, outputs)]
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(*_convolution(inputs, outputs, 1))
        # a monotone activation and a max pool commute; pooling first is cheaper
        self.end = nn.Sequential(nn.MaxPool2d(2) if pool else nn.Identity(), activation(), drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.body(x) + self.shortcut(x))


def _blocks(
    inputs: int,
    widths: tuple[int, ...],
    convolutions: int,
    activation: Callable[[], nn.Module],
    last_pool: bool,
    drops: list[nn.Module] | None = None,
) -> nn.Sequential:
    pools = (True, True, True, last_pool)
    steps = zip((inputs, *widths), widths, pools, drops or [nn.Identity() for _ in widths], strict=False)
    return nn.Sequential(*(_Block(i, o, convolutions, activation, p, d) for i, o, p, d in steps))


def _convolution(inputs: int, outputs: int, size: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)]


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1, inplace=True)


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def _initialise(network: nn.Module, nonlinearity: Literal["relu", "leaky_relu"], a: float = 0) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=a, mode="fan_out", nonlinearity=nonlinearity)
