"""Facts and certificates of transport problems on a GPU, in a pass each: see `facts` and `certificate`."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.kernels import nvrtc

SOURCE = Path(__file__).with_name("proof.cu")
WARP, LARGE = 32, 256  # lanes of a problem with up to MANY arcs, and with more
MANY = 1 << 13
FACTS = 6


def facts(cost: Tensor, supply: Tensor, demand: Tensor, tolerance: float) -> Tensor:
    """Numbers [6] of a batch on a GPU (see `facts.Facts`), each the larger the worse, so that those of several batches
    are their maxima; the host does not wait for them.
    """
    import numpy as np

    given = [x.contiguous() for x in (cost, supply, demand)]
    batch, n, m = cost.shape
    index, lanes = cost.device.index, LARGE if n * m > MANY else WARP
    has = nvrtc.attributes(index)
    blocks = min(batch * -(-n * m // MANY), has["MultiProcessorCount"] * (has["MaxThreadsPerMultiProcessor"] // lanes))
    out = torch.empty(blocks, FACTS, dtype=torch.float64, device=cost.device)
    numbers = [np.int64(batch), np.int32(n), np.int32(m), np.float64(tolerance)]
    nvrtc.launch(_kernel("facts", cost, lanes), blocks, lanes, cost.device, [*_at(given), *numbers, *_at([out])])
    return out.amax(0)


def certify(
    given: tuple[Tensor, Tensor, Tensor, Tensor], prices: Tensor, near: float, marginal: float, bit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaps [B], whether each is within the tolerances [B], and values [B] of plans on a GPU.

    Given are cost [B,n,m], supply [B,n], demand [B,m] and flow [B,n,m], all contiguous and of one type, and the
    supply's prices [B,n].
    """
    import numpy as np

    cost = given[0]
    batch, n, m = cost.shape
    out = [torch.empty(batch, dtype=kind, device=cost.device) for kind in (torch.float64, torch.bool, cost.dtype)]
    lanes = LARGE if n * m > MANY else WARP
    numbers = [np.int32(n), np.int32(m), *map(np.float64, (near, marginal, bit))]
    arguments = [*_at(given), *_at([prices]), *numbers, *_at(out)]
    nvrtc.launch(_kernel("certify", cost, lanes), batch, lanes, cost.device, arguments, shared=8 * n)
    return out[0], out[1], out[2]


def fits(n: int, m: int, device: torch.device) -> bool:
    """Whether n×m problems are small enough for `certify`: for a block's memory, and for indices of 32 bits."""
    return 8 * n <= nvrtc.shared_memory(device.index) and n * m < 1 << 31


def _kernel(name: str, cost: Tensor, lanes: int) -> Any:
    options = nvrtc.flags(SOURCE, cost.dtype == torch.float64, lanes)
    return nvrtc.compiled(SOURCE, name, options, cost.device.index)


def _at(tensors: Any) -> list[Any]:
    """Where tensors lie, as a kernel's arguments."""
    import numpy as np

    return [np.uint64(x.data_ptr()) for x in tensors]
