"""The GPU path of the network simplex: its CUDA source, compiled by NVRTC through CuPy and launched on torch's
stream.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.contracts import Plan

SOURCE = Path(__file__).with_name("kernel.cu")
WARP, LARGE = 32, 128  # lanes for up to 64 nodes, and for more
PER_BLOCK = 4  # warps, each with a problem of its own
REGISTERS = 80  # of a lane, so that enough warps are in flight to hide each other's waiting
STATIC = 512  # bytes of shared memory that argmin and sum of a block may take themselves
GROUPS = 1024  # problems in flight where their memory does not fit the chip


def lanes(n: int, m: int) -> int:
    """Lanes that work on one n×m problem."""
    return WARP if n + m <= 64 else LARGE if n + m <= 512 else 2 * LARGE


def memory(n: int, m: int) -> tuple[int, int]:
    """Bytes of one problem's tree, and of the top bits of its costs; multiples of 16 (see `solve` in the source)."""
    nodes = n + m
    return -(-nodes * (48 + 16 * ((nodes + 63) // 64)) // 16) * 16, -(-n * m * 4 // 16) * 16


def flags(wide: bool, group: int) -> tuple[str, ...]:
    """Compiler options for float64 (wide) or float32 costs and a group of so many lanes."""
    return (
        f"-DCOST={'double' if wide else 'float'}",
        f"-DLANES={group}",
        "--std=c++17",
        f"--maxrregcount={REGISTERS}",
        f"-I{SOURCE.parent}",
        f"-DSTATE=0x{_state()}",
    )


@cache
def _state() -> str:
    """A hash of all sources: CuPy's cache of compiled kernels does not look into included files."""
    return sha256(SOURCE.read_bytes() + SOURCE.with_name("lanes.cuh").read_bytes()).hexdigest()[:8]


def missing() -> str | None:
    """Why there is no GPU path here, in one sentence, or None."""
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device; use --device cpu"
    try:
        import cupy

        if not cupy.cuda.is_available():
            return "CuPy sees no CUDA device; check the driver, or use --device cpu"
    except (ImportError, RuntimeError, OSError) as error:
        return f"CuPy does not import ({error}); pip install 'fewshot-cli[cuda]'"
    return None


@cache
def _kernel(wide: bool, group: int, device: int) -> Any:
    import cupy

    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=SOURCE.read_text("utf-8"), options=flags(wide, group), backend="nvrtc")
        return module.get_function("solve")


def solve(cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
    """See `Solver.solve`, for CUDA tensors of one device: same integers inside as on the CPU; n + m is at most 2047.

    Prices and flows are rounded to the tensors' type. Nothing is copied and the host does not wait for the device.
    """
    import cupy
    import numpy as np

    batch, n, m = cost.shape
    kind = torch.float64 if cost.dtype == torch.float64 else torch.float32
    given = [x.detach().to(kind).contiguous() for x in (cost, supply, demand)]
    flow, rows, columns = torch.zeros_like(given[0]), torch.empty_like(given[1]), torch.empty_like(given[2])
    iterations = torch.empty(batch, dtype=torch.int64, device=cost.device)
    converged = torch.empty(batch, dtype=torch.bool, device=cost.device)
    if batch:
        group = lanes(n, m)
        each = PER_BLOCK if group == WARP else 1
        tree, near = memory(n, m)
        limit = cupy.cuda.Device(cost.device.index).attributes["MaxSharedMemoryPerBlockOptin"] - STATIC
        on_chip = (tree if tree * each <= limit else 0, near if (tree + near) * each <= limit else 0)
        slot = tree + near - sum(on_chip)
        blocks = -(-batch // each)
        if slot:
            blocks = min(blocks, GROUPS // each)
        workspace = torch.empty(max(1, slot * blocks * each), dtype=torch.uint8, device=cost.device)
        kernel = _kernel(kind == torch.float64, group, cost.device.index)
        pointers = [np.uint64(x.data_ptr()) for x in (*given, flow, rows, columns, iterations, converged)]
        sizes = [np.int32(x) for x in (batch, n, m)]
        room = [np.uint64(workspace.data_ptr()), np.int64(slot), *(np.int32(x) for x in on_chip)]
        stream = torch.cuda.current_stream(cost.device).cuda_stream
        with cupy.cuda.Device(cost.device.index), cupy.cuda.ExternalStream(stream):
            kernel.max_dynamic_shared_size_bytes = sum(on_chip) * each
            kernel((blocks,), (group * each,), (*pointers, *sizes, *room), shared_mem=sum(on_chip) * each)
    return Plan(flow, rows, columns, iterations, converged)
