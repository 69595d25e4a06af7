"""POT's exact solver `ot.emd`: LEMON's network simplex in float64, with dual prices."""

import warnings

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fewshot_cli.contracts import Plan, Solver, Tolerance
from fewshot_cli.kernels.threads import ThreadedOptions, over_batch


class POTOptions(ThreadedOptions):
    """Options of `ot.emd`."""

    max_iterations: int = Field(1_000_000, ge=1, description="pivots after which a problem counts as not converged")


class POT(Solver[POTOptions]):
    """Network simplex of Python Optimal Transport, one problem at a time, threads over the batch; full gradient."""

    exact = True
    tolerance = Tolerance(1e-10, 1e-10, 1e-6)
    complexity = ("O(n³ log n) for network simplex with Orlin's pivots; exponential at worst for LEMON's", 3)

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Why it cannot run here, or None."""
        try:
            import ot.lp  # noqa: F401
        except (ImportError, RuntimeError, OSError) as error:
            return f"POT does not import ({error}); pip install POT"
        return None

    @classmethod
    def reference_rank(cls, n: int, m: int) -> int | None:
        """At any size."""
        return 2

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        """See `Solver.solve`; float64 inside."""
        from ot.lp import emd

        c = np.ascontiguousarray(cost.detach().numpy(), np.float64)
        s = np.ascontiguousarray(supply.detach().numpy(), np.float64)
        d = np.array(demand.detach().numpy(), np.float64)
        totals = d.sum(1, keepdims=True)
        # LEMON wants equal totals to the last bit or drops mass; float32 masses differ by rounding
        d *= np.divide(s.sum(1, keepdims=True), totals, out=np.ones_like(totals), where=totals > 0)
        low = np.minimum(c.min((1, 2), initial=0), 0)  # with negative costs ot.emd ships nothing and gives up
        c = c - low[:, None, None]
        flow, u, v = np.zeros(c.shape), np.zeros(s.shape), np.zeros(d.shape)
        converged = np.ones(len(c), bool)

        def run(start: int, stop: int) -> None:
            for b in range(start, stop):
                flow[b], log = emd(
                    s[b], d[b], c[b], numItermax=self.options.max_iterations, log=True, check_marginals=False
                )
                u[b], v[b] = log["u"] + low[b], log["v"]
                converged[b] = log["result_code"] == 1

        with warnings.catch_warnings():  # what a warning says is in `converged`
            warnings.simplefilter("ignore")
            over_batch(run, len(c), self.options.workers)
        plan, rows, columns = (torch.from_numpy(x).to(cost.dtype) for x in (flow, u, v))
        return Plan(plan, rows, columns, torch.zeros(len(c), dtype=torch.int64), torch.from_numpy(converged))
