"""Averaged weights (`ema`): exponential moving averages that are validated and kept in place of the last weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving averages of the modules' weights and statistics.

    PyTorch's `AveragedModel` is not used: it averages a copy of the modules, while validation and checkpoints hold the
    modules themselves, and it starts at the weights after the first step, where this one forgets the start gradually.
    """

    def __init__(self, modules: dict[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.live = [x for module in modules.values() for x in module.state_dict().values()]
        self.averages = [x.clone() for x in self.live]
        self._floats = [[x for x in those if x.is_floating_point()] for those in (self.averages, self.live)]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """One step; the first ones count more, so that the start is forgotten."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for average, live in zip(self.averages, self.live, strict=True):
            if not live.is_floating_point():
                average.copy_(live)
        torch._foreach_lerp_(self._floats[0], self._floats[1], weight)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The modules hold the averages inside the block."""
        trained = [x.clone() for x in self.live]
        for live, average in zip(self.live, self.averages, strict=True):
            live.copy_(average)
        try:
            yield
        finally:
            for live, x in zip(self.live, trained, strict=True):
                live.copy_(x)

    def state(self) -> tuple[int, list[Tensor]]:
        """What `restore` takes."""
        return self.steps, self.averages

    def restore(self, state: tuple[int, list[Tensor]]) -> None:
        """Continue from an earlier state. Raises `ValueError` when it is of other modules."""
        self.steps, averages = state
        for target, x in zip(self.averages, averages, strict=True):
            target.copy_(x)
