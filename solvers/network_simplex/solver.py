"""The default solver: a batched network simplex of our own, exact, with dual prices."""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fewshot_cli.contracts import Plan, Solver, Tolerance
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.kernels import nvrtc
from fewshot_cli.kernels.threads import ThreadedOptions, over_batch
from fewshot_cli.runtime.console import say
from fewshot_cli.solvers.network_simplex import cuda

MAX_NODES = 2047  # of both sides together


class NetworkSimplexOptions(ThreadedOptions):
    """Options of `network_simplex`."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="where problems given on a GPU are solved: there if CuPy works, else the CPU; always on the CPU; "
        "or always on the GPU",
        json_schema_extra={"speed": True},
    )


class NetworkSimplex(Solver[NetworkSimplexOptions]):
    """Batched primal network simplex, compiled for the CPU by Numba and for the GPU by NVRTC; flow and dual prices.

    Both decide by the same integers, so the optimum is exact; the CPU rounds its prices in float64.
    """

    devices: tuple[str, ...] = ("cpu", "cuda")
    exact = True
    warm_start = True
    tolerance = Tolerance(1e-11, 1e-11, 1e-6)
    complexity = (
        "O(n³ log n) for network simplex with Orlin's pivots; exponential at worst for the pivots used here",
        3,
    )

    def __init__(self, options: NetworkSimplexOptions | None = None) -> None:
        super().__init__(options)
        requested = self.options.device
        reason = "" if requested == "cpu" else nvrtc.missing()
        if requested == "cuda" and reason is not None:
            raise RecipeError(f"solver network_simplex on cuda: {reason}")
        if reason is not None:
            self.devices = ("cpu",)
            if requested == "auto" and torch.cuda.is_available():
                say(f"note: network_simplex solves on the CPU: {reason}")

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Why it cannot run here, or None."""
        try:
            import numba  # noqa: F401
        except (ImportError, RuntimeError, OSError) as error:
            return f"Numba does not import ({error}); pip install numba"
        return None

    @classmethod
    def reference_rank(cls, n: int, m: int) -> int | None:
        """Second in rank where its integers can hold that many nodes."""
        return 1 if n + m <= MAX_NODES else None

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor, basis: Tensor | None = None) -> Plan:
        """See `Solver.solve`; integers and float64 inside. Raises `DataError` when n + m is above 2047.

        basis [B,n+m] of an earlier plan is where each problem starts, as long as it ships the new masses; CPU only.
        """
        batch, n, m = cost.shape
        if n + m > MAX_NODES:
            raise DataError(f"{n}×{m} nodes are more than the {MAX_NODES} network_simplex takes; use --solver pot")
        if cost.device.type == "cuda":
            return cuda.solve(cost, supply, demand)
        from fewshot_cli.solvers.network_simplex.kernel import solve_range

        c, s, d = (np.ascontiguousarray(x.detach().numpy()) for x in (cost, supply, demand))
        flow, u, v = (np.empty_like(x) for x in (c, s, d))
        trees, iterations, converged = (
            np.empty((batch, n + m), np.int16),
            np.zeros(batch, np.int64),
            np.ones(batch, bool),
        )
        warm = np.empty((0, 0), np.int16) if basis is None else np.ascontiguousarray(basis.numpy())
        if basis is not None and warm.shape != trees.shape:
            raise ValueError(f"basis {warm.shape} does not go with cost {tuple(cost.shape)}")
        words = (n + m + 63) // 64
        marker = (0,) if words == 1 else (0,) * 8 if words <= 8 else np.empty(words + 7 & ~7, np.int8)  # see tree.py

        def run(start: int, stop: int) -> None:
            solve_range(marker, c, s, d, warm, flow, u, v, trees, iterations, converged, start, stop)

        over_batch(run, batch, self.options.workers)
        return Plan(*(torch.from_numpy(x) for x in (flow, u, v, iterations, converged, trees)))
