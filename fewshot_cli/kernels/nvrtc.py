"""CUDA sources on a GPU: compiled by NVRTC through CuPy, once for a machine, and launched on PyTorch's stream."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Timer
from typing import Any

import torch

from fewshot_cli.runtime.console import say

LANES = Path(__file__).with_name("lanes.cuh")  # what every source includes
STATIC = 512  # bytes of shared memory that argmin and sum of several warps may take themselves
PATIENCE = 0.5  # seconds of compiling after which it is told


def missing() -> str | None:
    """Why nothing can be compiled for a GPU here, in one sentence, or None."""
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
def works() -> bool:
    """Whether sources can be compiled for a GPU here."""
    return missing() is None


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
def flags(source: Path, wide: bool, lanes: int) -> tuple[str, ...]:
    """Compiler options of a source for float64 (`wide`) or float32 and a number of lanes to a block.

    They hold a hash of what it is made of: CuPy's cache of compiled kernels does not look into included files.
    """
    state = sha256(source.read_bytes() + LANES.read_bytes()).hexdigest()[:8]
    cost = "double" if wide else "float"
    return (f"-DCOST={cost}", f"-DLANES={lanes}", "--std=c++17", f"-I{LANES.parent}", f"-DSTATE=0x{state}")


@cache
def compiled(source: Path, name: str, options: tuple[str, ...], device: int) -> Any:
    """A kernel of a source, with as much shared memory as a block may have: set once, since threads share it."""
    import cupy

    told = Timer(PATIENCE, lambda: say("compiling for the GPU, once for this machine …"))
    told.start()
    try:
        with cupy.cuda.Device(device):
            module = cupy.RawModule(code=source.read_text("utf-8"), options=options, backend="nvrtc")
            function = module.get_function(name)
            function.max_dynamic_shared_size_bytes = shared_memory(device)
            return function
    finally:
        told.cancel()


@cache
def shared_memory(device: int) -> int:
    """Bytes of shared memory that a block may use."""
    return attributes(device)["MaxSharedMemoryPerBlockOptin"] - STATIC


@cache
def attributes(device: int) -> dict[str, int]:
    """What a device has, by CUDA's names."""
    import cupy

    return dict(cupy.cuda.Device(device).attributes)


def launch(
    kernel: Any, blocks: int, lanes: int, device: torch.device, arguments: Sequence[Any], shared: int = 0
) -> None:
    """Queue a kernel on the stream that PyTorch uses there."""
    import cupy

    stream = torch.cuda.current_stream(device)
    with cupy.cuda.Device(device.index), _stream(cupy, stream):
        kernel((blocks,), (lanes,), tuple(arguments), shared_mem=shared)


def _stream(cupy: Any, stream: Any) -> Any:
    """PyTorch's stream as CuPy's."""
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream)
