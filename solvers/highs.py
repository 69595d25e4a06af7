"""SciPy's HiGHS on the linear program itself: the oracle the other solvers are compared with; slow, exact, with
prices.
"""

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, kron, vstack
from torch import Tensor

from fewshot_cli.contracts import Options, Plan, Solver, Tolerance

REFERENCE_CELLS = 12_000  # of a problem, beyond which it is too slow to compare others with


class HighsOptions(Options):
    """Options of `scipy.optimize.linprog`."""

    tolerance: float = Field(1e-9, ge=1e-10, le=1e-4, description="primal and dual feasibility, absolute")


class Highs(Solver[HighsOptions]):
    """The transport problem as a linear program, solved by HiGHS' dual simplex one at a time; full gradient."""

    exact = True
    tolerance = Tolerance(1e-8, 1e-8, 1e-5)
    complexity = ("O(2ⁿ) at worst for the dual simplex on n² variables", None)

    @classmethod
    def reference_rank(cls, n: int, m: int) -> int | None:
        """First in rank where it takes seconds at most."""
        return 0 if n * m <= REFERENCE_CELLS else None

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        """See `Solver.solve`; float64 inside. Problems are scaled to unit mass and unit largest cost."""
        batch, n, m = cost.shape
        c, s, d = (np.asarray(x.detach().numpy(), np.float64) for x in (cost, supply, demand))
        marginals = _marginals(n, m)
        flow, u, v = np.zeros(c.shape), np.zeros(s.shape), np.zeros(d.shape)
        iterations, converged = np.zeros(batch, np.int64), np.ones(batch, bool)
        limits = {
            "primal_feasibility_tolerance": self.options.tolerance,
            "dual_feasibility_tolerance": self.options.tolerance,
        }
        for b in range(batch):
            mass, top = s[b].sum(), np.abs(c[b]).max()
            if mass == 0:
                u[b] = c[b].min()
                continue
            top = top or 1.0
            sides = np.concatenate([s[b] / mass, d[b] / d[b].sum()])
            result = linprog(c[b].ravel() / top, A_eq=marginals, b_eq=sides, method="highs-ds", options=limits)
            iterations[b], converged[b] = result.nit, result.status == 0
            if result.x is not None:
                flow[b] = result.x.reshape(n, m) * mass
                u[b], v[b] = np.split(result.eqlin.marginals * top, [n])
        plan, rows, columns = (torch.from_numpy(x).to(cost.dtype) for x in (flow, u, v))
        return Plan(plan, rows, columns, torch.from_numpy(iterations), torch.from_numpy(converged))


def _marginals(n: int, m: int) -> csr_array:
    """The constraint matrix [n+m, n·m] of X1 = s, Xᵀ1 = d."""
    rows = kron(eye_array(n), np.ones((1, m)))
    columns = kron(np.ones((1, n)), eye_array(m))
    return csr_array(vstack([rows, columns]))
