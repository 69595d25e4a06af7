"""Which device to run on."""

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fewshot_cli.contracts import Solver
from fewshot_cli.errors import FslError

M = TypeVar("M", bound=nn.Module)


def resolve(name: str) -> torch.device:
    """The device behind `auto`, `cpu`, `cuda` or `cuda:N`. Raises `FslError` when it is not there."""
    keep_freed_memory()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise FslError(f"--device {name}: is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise FslError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise FslError(f"--device {name}: only cpu and cuda are supported")
    return device


def matching_device(solver: Solver[Any] | None, device: torch.device) -> torch.device:
    """Where matching happens: the device itself, or the CPU when the solver takes only CPU tensors."""
    return device if solver is None or device.type in solver.devices else torch.device("cpu")


def place(module: M, device: torch.device) -> M:
    """The module on the device, its weights laid out channels last, as convolutions are fastest."""
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs lack it


def onto(device: torch.device, x: Tensor) -> Tensor:
    """The tensor on the device. From the CPU to a GPU it goes through pinned memory, so that the host does not wait for
    what it has queued there before.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def has_bf16(device: torch.device) -> bool:
    """Whether it computes in bf16 itself; a processor without it emulates it, ten times slower than float32."""
    with suppress(AttributeError, RuntimeError):  # a PyTorch without oneDNN
        return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True


def machine(device: torch.device) -> str:
    """What does the work: a GPU's name, or the processor's kind and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = os.cpu_count() or 1
    return f"{cores} core{'s' if cores > 1 else ''}, {_processor()}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, including those PyTorch has cached, or in the machine's memory."""
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    with suppress(OSError, StopIteration, ValueError):  # what files take in memory counts as free there
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def keep_freed_memory() -> None:
    """Have the GNU C library keep freed blocks up to 1 GB instead of giving them back to the system.

    PyTorch frees a large temporary after almost every operation; fetching the pages again costs more than the
    operation.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            library = ctypes.CDLL(None)
            library.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            library.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
