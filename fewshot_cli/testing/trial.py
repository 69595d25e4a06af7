"""What the contract suites of several kinds of parts share: parts made to be tried, and comparisons."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_cli import registry
from fewshot_cli.config.load import default_part
from fewshot_cli.testing.case import require

Check = Callable[[str], str | None]
CHANNELS, CLASSES = 8, 5
NEAR = 1e-4  # largest difference that another order of single-precision sums explains


def trial(kind: str, name: str) -> Any:
    """A part with its trial options."""
    return default_part(kind, name, **registry.part(kind, name).trial)


def apart(first: Tensor, second: Tensor) -> float:
    """The largest difference of two tensors."""
    return float((first - second).detach().abs().max())


def saved_whole(module: nn.Module, other: nn.Module, run: Callable[[nn.Module], Tensor]) -> None:
    """`other`, freshly made, does the same as `module` with its state dict. Raises `Failed`."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01)
    other.load_state_dict(module.state_dict())
    require(
        torch.allclose(run(module), run(other), atol=NEAR), "its state dict does not hold all that it computes with"
    )
