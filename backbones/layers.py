"""What the deep backbones share: 3×3 convolutions, shortcuts without parameters, initial weights, valid depths."""

from collections.abc import Sequence

import torch.nn.functional as F
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from fewshot_cli.contracts import Backbone, OptionsT


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """x [N,inputs,h,w] → [N,outputs,⌈h/stride⌉,⌈w/stride⌉], without bias."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """x [N,inputs,h,w] → [N,outputs,⌈h/stride⌉,⌈w/stride⌉], without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def widen(x: Tensor, channels: int) -> Tensor:
    """x [N,d,h,w] → [N,channels,h,w], the new channels zero and last."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


def initialise(network: nn.Module) -> None:
    """Kaiming normal weights for ReLU, by the number of outputs (He et al., ICCV 2015, Equation 14)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class PreActivated(Backbone[OptionsT]):
    """A stem, blocks that begin with batch norm, and a last batch norm and ReLU, which belong to the map."""

    def assemble(self, stem: nn.Module, blocks: Sequence[nn.Module], channels: int) -> None:
        """Put the parts in place, `channels` those of the last block, and draw their weights."""
        self.stem, self.blocks = stem, nn.Sequential(*blocks)
        self.end = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.channels = channels
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,d,h,w] of images [N,3,H,W]."""
        return self.end(self.blocks(self.stem(images)))


def depth_rule(step: int, rest: int) -> AfterValidator:
    """Depths of the form step·n + rest; another one is refused as an option's value."""
    some = ", ".join(str(step * n + rest) for n in (1, 2, 3))

    def check(depth: int) -> int:
        if (depth - rest) % step:
            raise PydanticCustomError("depth", f"must be {step}n + {rest} ({some}, …)")
        return depth

    return AfterValidator(check)
