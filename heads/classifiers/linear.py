"""Ordinary classifiers: global average pooling and one or two fully connected layers."""

from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Classifier, Options


class Linear(Classifier[Options]):
    """maps [N,d,h,w] → logits [N,classes]: a linear layer, with bias, on the mean over positions (DeepEMD's code)."""

    def __init__(self, options: Options | None = None, *, channels: int, classes: int) -> None:
        super().__init__(options, channels=channels, classes=classes)
        self.layer = nn.Linear(channels, classes)

    def forward(self, maps: Tensor) -> Tensor:
        return self.layer(maps.flatten(2).mean(-1))


class TwoLayerOptions(Options):
    """Width of the hidden layer."""

    hidden: int | None = Field(None, ge=1, le=65536, description="hidden units (default: as many as channels)")


class TwoLayer(Classifier[TwoLayerOptions]):
    """maps [N,d,h,w] → logits [N,classes]: two linear layers with a ReLU between, on the mean over positions.

    DeepEMD's text finds it better than one layer (CVPR 2020, section 4.1); its code has one.
    """

    def __init__(self, options: TwoLayerOptions | None = None, *, channels: int, classes: int) -> None:
        super().__init__(options, channels=channels, classes=classes)
        hidden = self.options.hidden or channels
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps.flatten(2).mean(-1))
