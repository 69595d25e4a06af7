"""Which device to run on."""

import torch

from fewshot_cli.contracts import Solver
from fewshot_cli.errors import FslError


def resolve(name: str) -> torch.device:
    """The device behind `auto`, `cpu`, `cuda` or `cuda:N`. Raises `FslError` when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as fault:
        raise FslError(f"--device {name}: is no device; use auto, cpu, cuda or cuda:N") from fault
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise FslError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise FslError(f"--device {name}: only cpu and cuda are supported")
    return device


def home_of(solver: Solver | None, device: torch.device) -> torch.device:
    """Where matching happens: the device itself, or the CPU when the solver takes only CPU tensors."""
    return device if solver is None or device.type in solver.devices else torch.device("cpu")
