"""OpenCV's `cv2.EMD`: the solver of DeepEMD's public code; exact in float32, flow only."""

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.contracts import Plan, Solver, Tolerance
from fewshot_cli.kernels.threads import ThreadedOptions, over_batch


class OpenCV(Solver[ThreadedOptions]):
    """Transportation simplex of OpenCV, one problem at a time in float32, threads over the batch.

    Returns no prices, so `transport.value` gives the cost its gradient and the node weights none.
    """

    exact = True
    tolerance = Tolerance(2e-5, 1e-4, 0.05)
    complexity = ("O(n³) to O(n⁴) observed for the transportation simplex (Rubner 2000); exponential at worst", 3.5)

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Why it cannot run here, or None."""
        try:
            import cv2
        except (ImportError, RuntimeError, OSError) as cause:
            return f"OpenCV does not import ({cause}); pip install opencv-python-headless"
        return None if hasattr(cv2, "EMD") else "this OpenCV has no cv2.EMD; pip install 'opencv-python-headless<6'"

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        """See `Solver.solve`; float32 inside, whatever the input."""
        import cv2

        scale = cost.detach().abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(cost.dtype).tiny)
        c = np.ascontiguousarray((cost.detach() / scale).numpy(), np.float32)  # in units in which nothing overflows
        s = np.ascontiguousarray(supply.detach().numpy(), np.float32)[:, :, None]
        d = np.ascontiguousarray(demand.detach().numpy(), np.float32)[:, :, None]
        c = c - np.minimum(c.min((1, 2), initial=0), 0)[:, None, None]  # cv2.EMD wants distances, not negative costs
        flow = np.zeros(c.shape, np.float32)
        converged = np.ones(len(c), bool)

        def run(start: int, stop: int) -> None:
            for b in range(start, stop):
                try:
                    flow[b] = np.maximum(cv2.EMD(s[b], d[b], cv2.DIST_USER, c[b])[2], 0)  # rounding can go below zero
                except cv2.error:
                    converged[b] = False

        over_batch(run, len(c), self.options.workers)
        # what comes back is checked, because cv2.EMD stops silently at its iteration limit
        short = np.abs(flow.sum(2) - s[:, :, 0]).max(1, initial=0) > 1e-3 * s.sum((1, 2))
        converged &= ~short
        return Plan(
            torch.from_numpy(flow).to(cost.dtype),
            None,
            None,
            torch.zeros(len(c), dtype=torch.int64),
            torch.from_numpy(converged),
        )
