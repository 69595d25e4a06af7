"""POT's batched solvers (`ot.batch`), beside our own for comparison: Sinkhorn in logarithms, and the proximal point."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewshot_cli.contracts import Plan, Solver, Tolerance
from fewshot_cli.solvers.sinkhorn.solver import COMPLEXITY, LADDER, EntropicOptions

TINY = 1e-30  # mass of a node without any, whose logarithm and its slope would not be finite


class POTSinkhornOptions(EntropicOptions):
    """Options of `ot.batch.solve_batch`."""

    method: Literal["log_sinkhorn", "proximal"] = Field(
        "log_sinkhorn",
        description="Sinkhorn in logarithms, or the proximal point method, which needs no regularisation",
    )
    tolerance: float = Field(
        1e-5, gt=0, description="L2 error of the marginals relative to the mass, over the whole batch"
    )
    gradient: Literal["unrolled", "last_step"] = Field(
        "unrolled", description="differentiate through every iteration, or through the last one only"
    )


class POTSinkhorn(Solver[POTSinkhornOptions]):
    """Transport of Python Optimal Transport, the whole batch at once; the plan carries its gradient."""

    devices = ("cpu", "cuda")
    gradient = "autograd"
    tolerance = Tolerance(0.02, 1e-4, 0.02, False)
    complexity = COMPLEXITY
    ladder = (*LADDER, {"method": "proximal"})

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Why it cannot run here, or None."""
        try:
            from ot.batch import solve_batch  # noqa: F401
        except (ImportError, RuntimeError, OSError) as cause:
            return f"POT's ot.batch does not import ({cause}); pip install 'POT>=0.9.7'"
        return None

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        """See `Solver.solve`; in the tensors' own precision, masses normalised to one."""
        from ot.batch import solve_batch

        batch = len(cost)
        iterations = torch.zeros(batch, dtype=torch.int64, device=cost.device)
        if not cost.numel():
            return Plan(torch.zeros_like(cost), None, None, iterations, iterations == 0)
        mass = supply.sum(1, keepdim=True)
        some = mass > 0  # problems without mass get any marginals, and no flow
        s = torch.where(some, supply, 1) / torch.where(some, mass, supply.shape[1])
        d = torch.where(some, demand, 1) / torch.where(some, demand.sum(1, keepdim=True), demand.shape[1])
        s, d = s.clamp(min=TINY), d.clamp(min=TINY)
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in (cost, supply, demand))
        grad = {"unrolled": "autodiff", "last_step": "last_step"}[self.options.gradient] if graph else "detach"
        result = solve_batch(
            cost,
            None if self.options.method == "proximal" else self.options.regularisation,
            a=s,
            b=d,
            max_iter=self.options.max_iterations,
            tol=self.options.tolerance,
            method=self.options.method,
            reg_type="entropy",
            grad=grad,
        )
        error = (result.plan.detach().sum(2) - s.detach()).norm(dim=1)
        return Plan(result.plan * mass[:, :, None], None, None, iterations, error <= self.options.tolerance)
