"""The GPU path of the network simplex: its CUDA source, compiled by NVRTC through CuPy and launched on torch's
stream.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.contracts import Plan
from fewshot_cli.runtime.console import say

SOURCE = Path(__file__).with_name("kernel.cu")
WARP, LARGE = 32, 128  # lanes for up to NARROW nodes, and for more
NARROW = 128  # nodes of which a warp keeps part of the tree in registers
STATIC = 512  # bytes of shared memory that argmin and sum of several warps may take themselves
KNOWN = 16  # sizes in a process that get machine code of their own; later ones share one that takes any
PATIENCE = 0.5  # seconds of compiling after which it is told


def lanes(n: int, m: int) -> int:
    """Lanes that work on one n×m problem."""
    return WARP if n + m <= NARROW else LARGE if n + m <= 512 else 2 * LARGE


def registers(n: int, m: int) -> int:
    """Registers of a lane: few, so that enough warps are in flight to hide each other's waiting."""
    return 64 if n + m <= 64 else 96


def memory(n: int, m: int, known: bool = False) -> tuple[int, int]:
    """Bytes of one problem's tree, and of the top bits of its costs; multiples of 16 (see `TREE_SIZE` in the source).

    `known`: of machine code for this size alone, which keeps part of a small tree in registers.
    """
    nodes, words = n + m, (n + m + 63) // 64
    node = 32 + 8 * words if known and lanes(n, m) == WARP and nodes <= NARROW else 48 + 16 * words
    return -(-nodes * node // 16) * 16, -(-n * m * 4 // 16) * 16


@dataclass(frozen=True)
class Build:
    """One build of the source: for float64 (`wide`) or float32 costs, a number of lanes and of their registers, and,
    where it is for one size alone, that size with the bytes of tree and costs in shared memory.
    """

    wide: bool
    lanes: int
    registers: int
    size: tuple[int, int, int, int] | None = None

    def flags(self) -> tuple[str, ...]:
        """Compiler options."""
        names = ("ROWS", "COLUMNS", "TREE_BYTES", "NEAR_BYTES")
        return (
            f"-DCOST={'double' if self.wide else 'float'}",
            f"-DLANES={self.lanes}",
            "--std=c++17",
            f"--maxrregcount={self.registers}",
            f"-I{SOURCE.parent}",
            f"-DSTATE=0x{_state()}",
            *(f"-D{name}={value}" for name, value in zip(names, self.size or (), strict=False)),
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
        return (
            f"CuPy does not import ({error}); pip install 'fewshot-cli[cuda12]', or cuda13 where `nvidia-smi` says so"
        )
    return _uncompilable()


@cache
def _uncompilable() -> str | None:
    """Why CuPy cannot compile here (without NVRTC, for one), or None."""
    import cupy

    try:
        trial = cupy.RawModule(code='extern "C" __global__ void none() {}', options=("--std=c++17",), backend="nvrtc")
        trial.get_function("none")
    except Exception as error:  # of the driver, of NVRTC, or of the search for either
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        return f"CuPy cannot compile ({said}); pip install 'cupy-cuda12x[ctk]', or cupy-cuda13x[ctk]"
    return None


@cache
def _kernel(build: Build, device: int) -> Any:
    """The compiled source, with as much shared memory as a block may have: set once, since threads share it."""
    import cupy

    told = Timer(PATIENCE, lambda: say("compiling the network simplex for the GPU, once for this machine …"))
    told.start()
    try:
        with cupy.cuda.Device(device):
            module = cupy.RawModule(code=SOURCE.read_text("utf-8"), options=build.flags(), backend="nvrtc")
            function = module.get_function("solve")
            function.max_dynamic_shared_size_bytes = _shared(device)
            return function
    finally:
        told.cancel()


@cache
def _shared(device: int) -> int:
    """Bytes of shared memory that a block may use."""
    import cupy

    return int(cupy.cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]) - STATIC


_sizes: set[tuple[int, int]] = set()


def _build(wide: bool, n: int, m: int, limit: int) -> tuple[Build, int, int]:
    """The build for n×m problems; the bytes of their tree and costs in shared memory, zero where they do not fit."""
    known = (n, m) in _sizes or len(_sizes) < KNOWN
    if known:
        _sizes.add((n, m))
    tree, near = memory(n, m, known)
    on_chip = (tree if tree <= limit else 0, near if tree + near <= limit else 0)
    return Build(wide, lanes(n, m), registers(n, m), (n, m, *on_chip) if known else None), *on_chip


def _resident(build: Build, shared: int, device: int) -> int:
    """Blocks that a GPU works on at once."""
    import cupy

    has = cupy.cuda.Device(device).attributes
    each = min(
        has["MaxThreadsPerMultiProcessor"] // build.lanes,
        has["MaxRegistersPerMultiprocessor"] // (build.registers * build.lanes),
        has["MaxSharedMemoryPerMultiprocessor"] // max(1, shared + STATIC),
    )
    return max(1, each) * int(has["MultiProcessorCount"])


def _stream(cupy: Any, stream: Any) -> Any:
    """PyTorch's stream as CuPy's."""
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream)


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
        device = cost.device.index
        build, tree, near = _build(kind == torch.float64, n, m, _shared(device))
        slot, shared, blocks = sum(memory(n, m, build.size is not None)) - tree - near, tree + near, batch
        if slot:  # each block in flight has a slot
            blocks = min(batch, _resident(build, shared, device))
        workspace = torch.empty(max(1, slot * blocks), dtype=torch.uint8, device=cost.device)
        kernel = _kernel(build, device)
        pointers = [np.uint64(x.data_ptr()) for x in (*given, flow, rows, columns, iterations, converged)]
        sizes = [np.int32(x) for x in (batch, n, m)]
        room = [np.uint64(workspace.data_ptr()), np.int64(slot), np.int32(tree), np.int32(near)]
        with cupy.cuda.Device(device), _stream(cupy, torch.cuda.current_stream(cost.device)):
            kernel((blocks,), (build.lanes,), (*pointers, *sizes, *room), shared_mem=shared)
    return Plan(flow, rows, columns, iterations, converged)
