"""The default solver: a batched network simplex of our own, exact, with dual prices."""

import sys

import numpy as np
import torch
from fewshot_cli.solvers.parallel import ThreadedOptions, over_batch
from torch import Tensor

from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.errors import DataError


class NetworkSimplex(Solver):
    """Batched primal network simplex, compiled for the CPU by Numba: exact optimum, flow and dual prices."""

    Options = ThreadedOptions
    exact = True

    @classmethod
    def works(cls) -> str | None:
        """Why it cannot run here, or None."""
        try:
            import numba  # noqa: F401
        except (ImportError, RuntimeError, OSError) as fault:
            return f"Numba does not import ({fault}); pip install numba"
        return None

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        """See `Solver.solve`; integer and float64 arithmetic inside. n + m is at most 2047."""
        from fewshot_cli.solvers.network_simplex_kernel import MAX_NODES, compiled_before, solve_range

        batch, n, m = cost.shape
        if n + m >= MAX_NODES:
            raise DataError(f"{n}×{m} nodes are more than the {MAX_NODES - 1} network_simplex takes; use --solver pot")
        if not solve_range.signatures and not compiled_before():
            print("compiling the network simplex, once for this machine …", file=sys.stderr, flush=True)
        c, s, d = (np.ascontiguousarray(x.detach().numpy()) for x in (cost, supply, demand))
        flow, u, v = np.zeros_like(c), np.empty_like(s), np.empty_like(d)
        iterations, converged = np.zeros(batch, np.int64), np.ones(batch, bool)
        words = (n + m + 63) // 64
        marker = (0,) if words == 1 else np.empty(words, np.int8)  # see network_simplex_tree

        def run(start: int, stop: int) -> None:
            solve_range(marker, c, s, d, flow, u, v, iterations, converged, start, stop)

        over_batch(run, batch, self.options.workers)
        return Plan(*(torch.from_numpy(x) for x in (flow, u, v, iterations, converged)))
