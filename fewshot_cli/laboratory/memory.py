"""How much memory a piece of work takes at most."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


def with_peak(device: torch.device, work: Callable[[], T], process: Path = Path("/proc/self")) -> tuple[T, int | None]:
    """What `work` returns, and the peak bytes meanwhile: of the GPU's memory, or of all that this process holds, of
    which Linux keeps account in the folder `process`; None where nothing does.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return work(), torch.cuda.max_memory_allocated(device)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work has left in reserve is not this one's
        (process / "clear_refs").write_text("5")  # lets the high-water mark start again
    done = work()
    with suppress(OSError, ValueError, StopIteration):
        lines = (process / "status").read_text().splitlines()
        return done, 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return done, None
