"""The GPU path of the network simplex: its CUDA source, launched on the stream that PyTorch uses."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli.contracts import Plan
from fewshot_cli.kernels import nvrtc

SOURCE = Path(__file__).with_name("kernel.cu")
WARP, LARGE = 32, 128  # lanes for up to NARROW nodes, and for more
NARROW = 128  # nodes of which a warp keeps part of the tree in registers
KNOWN = 16  # sizes in a process that get machine code of their own; later ones share one that takes any
FULL = 7000  # bytes of shared memory for each problem that let a multiprocessor hold as many blocks as it can


def lanes(n: int, m: int) -> int:
    """Lanes that work on one n×m problem."""
    return WARP if n + m <= NARROW else LARGE if n + m <= 512 else 2 * LARGE


def registers(n: int, m: int) -> int:
    """Registers of a lane: few where their number limits the warps that hide each other's waiting, and not the memory
    that they share.
    """
    return 64 if n + m <= NARROW and sum(memory(n, m, True)) <= FULL else 96


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
            *nvrtc.flags(SOURCE, self.wide, self.lanes),
            f"--maxrregcount={self.registers}",
            *(f"-D{name}={value}" for name, value in zip(names, self.size or (), strict=False)),
        )


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
    has = nvrtc.attributes(device)
    each = min(
        has["MaxThreadsPerMultiProcessor"] // build.lanes,
        has["MaxRegistersPerMultiprocessor"] // (build.registers * build.lanes),
        has["MaxSharedMemoryPerMultiprocessor"] // max(1, shared + nvrtc.STATIC),
    )
    return max(1, each) * has["MultiProcessorCount"]


def solve(cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
    """See `Solver.solve`, for CUDA tensors of one device: same integers inside as on the CPU; n + m is at most 2047.

    Prices and flows are rounded to the tensors' type. Nothing is copied and the host does not wait for the device.
    """
    import numpy as np

    batch, n, m = cost.shape
    kind = torch.float64 if cost.dtype == torch.float64 else torch.float32
    given = [x.detach().to(kind).contiguous() for x in (cost, supply, demand)]
    flow, rows, columns = torch.zeros_like(given[0]), torch.empty_like(given[1]), torch.empty_like(given[2])
    iterations = torch.empty(batch, dtype=torch.int64, device=cost.device)
    converged = torch.empty(batch, dtype=torch.bool, device=cost.device)
    if batch:
        device = cost.device.index
        build, tree, near = _build(kind == torch.float64, n, m, nvrtc.shared_memory(device))
        slot, shared, blocks = sum(memory(n, m, build.size is not None)) - tree - near, tree + near, batch
        if slot:  # each block in flight has a slot
            blocks = min(batch, _resident(build, shared, device))
        workspace = torch.empty(max(1, slot * blocks), dtype=torch.uint8, device=cost.device)
        kernel = nvrtc.compiled(SOURCE, "solve", build.flags(), device)
        pointers = [np.uint64(x.data_ptr()) for x in (*given, flow, rows, columns, iterations, converged)]
        sizes = [np.int32(x) for x in (batch, n, m)]
        room = [np.uint64(workspace.data_ptr()), np.int64(slot), np.int32(tree), np.int32(near)]
        nvrtc.launch(kernel, blocks, build.lanes, cost.device, [*pointers, *sizes, *room], shared)
    return Plan(flow, rows, columns, iterations, converged)
