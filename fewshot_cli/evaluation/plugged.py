"""A user's own backbone and head, plain modules, in the place of a recipe's."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot_cli.contracts import Backbone, Head, Options
from fewshot_cli.errors import DataError, FslError


@dataclass(frozen=True)
class Plugged:
    """Modules in the place of a recipe's parts: `backbone` makes maps [N,d,h,w] of images [N,3,H,W], `head` makes
    logits [E,q,way] of maps support [E,way,shot,d,h,w] and query [E,q,d,h,w]. None leaves the recipe's part.
    """

    backbone: nn.Module | None = None
    head: nn.Module | None = None


NOTHING = Plugged()


class PluggedBackbone(Backbone[Options]):
    """A copy of a module as a backbone. Raises `FslError` where it does not make maps of images [1,3,size,size]."""

    def __init__(self, module: nn.Module, size: int) -> None:
        super().__init__()
        self.module, self.name = deepcopy(module).cpu().eval(), type(module).__name__
        with torch.no_grad():
            maps = self.module(torch.zeros(1, 3, size, size))
        if not isinstance(maps, Tensor) or maps.ndim != 4 or len(maps) != 1:
            given = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise FslError(
                f"backbone {self.name} makes {given} of images [1, 3, {size}, {size}]; it must make maps "
                "[1, d, h, w]: leave its pooling and its classifier out"
            )
        self.channels = maps.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """See `Backbone.forward`."""
        return self.module(images)


class PluggedHead(Head[Options]):
    """A copy of a module as a head. `forward` raises `DataError` for logits of another shape than [E,q,way]."""

    def __init__(self, module: nn.Module, channels: int) -> None:
        super().__init__(channels=channels)
        self.module, self.name = deepcopy(module), type(module).__name__

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """See `Head.forward`."""
        logits, wanted = self.module(support, query), (len(query), query.shape[1], support.shape[1])
        if not isinstance(logits, Tensor) or logits.shape != wanted:
            given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise DataError(
                f"head {self.name} gives {given} for {wanted[0]} episodes with {wanted[1]} queries and {wanted[2]} "
                f"classes; it must give logits {list(wanted)}"
            )
        return logits
