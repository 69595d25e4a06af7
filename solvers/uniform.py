"""Matching by assignment, for equal weights: a transport problem whose optimum is a permutation."""

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.contracts import Plan, Solver, Tolerance
from fewshot_cli.errors import DataError
from fewshot_cli.kernels.threads import ThreadedOptions, over_batch

EQUAL = 1e-5  # relative difference that float32 normalisation leaves between equal weights


class Uniform(Solver[ThreadedOptions]):
    """SciPy's shortest augmenting paths (Jonker and Volgenant 1987), one problem at a time; exact, flow only.

    Needs as many supply as demand nodes, all of the same weight (DeepEMD's Table 2, equal weights).
    """

    exact = True
    tolerance = Tolerance(1e-11, 1e-11, 1e-6)
    complexity = ("O(n³)", 3)

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        """See `Solver.solve`; float64 inside. Raises `DataError` when the weights differ or n ≠ m."""
        from scipy.optimize import linear_sum_assignment

        batch, n, m = cost.shape
        if n != m:
            raise DataError(
                f"solver uniform matches one to one, but there are {n} supply and {m} demand nodes; "
                "use --solver network_simplex"
            )
        weights = torch.cat([supply, demand], 1).detach()
        if batch and bool((weights.amax(1) - weights.amin(1) > EQUAL * weights.amax(1)).any()):
            raise DataError(
                "solver uniform needs nodes of equal weight; use a head with equal weights, or --solver network_simplex"
            )
        c = np.asarray(cost.detach().numpy(), np.float64)
        partner = np.empty((batch, n), np.int64)

        def run(start: int, stop: int) -> None:
            for b in range(start, stop):
                partner[b] = linear_sum_assignment(c[b])[1]

        over_batch(run, batch, self.options.workers)
        flow = (
            torch.zeros_like(cost).scatter_(2, torch.from_numpy(partner)[:, :, None], 1) * supply.detach()[:, :, None]
        )
        return Plan(flow, None, None, torch.zeros(batch, dtype=torch.int64), torch.ones(batch, dtype=torch.bool))
