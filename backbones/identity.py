"""Nothing: for features that were computed elsewhere."""

from torch import Tensor

from fewshot_cli.contracts import Backbone, Options, OwnWeights


class Identity(Backbone[Options]):
    """Passes on what it is given: the features of a dataset that was prepared from arrays (`fsl prepare features`).

    maps [N,d,h,w] → the same. It has no weights; `channels` is that of the dataset.
    """

    pretrained = True
    takes_features = True
    channels = 3

    @classmethod
    def brings_weights(cls, options: Options) -> bool:
        """As `Backbone.brings_weights`: there are none to bring, and none to look for."""
        return True

    def own_weights(self) -> OwnWeights:
        """As `Backbone.own_weights`."""
        return OwnWeights({}, "no weights", "none", ("unknown",))

    def forward(self, images: Tensor) -> Tensor:
        """What it is given."""
        return images
