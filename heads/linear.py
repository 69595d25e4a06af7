"""The ordinary classifier: global average pooling and one fully connected layer."""

from torch import Tensor, nn

from fewshot_cli.contracts import Classifier, Options


class Linear(Classifier):
    """maps [N,d,h,w] → logits [N,classes]: a linear layer, with bias, on the mean over positions."""

    def __init__(self, options: Options | None = None, *, channels: int, classes: int) -> None:
        super().__init__(options, channels=channels, classes=classes)
        self.layer = nn.Linear(channels, classes)

    def forward(self, maps: Tensor) -> Tensor:
        return self.layer(maps.flatten(2).mean(-1))
