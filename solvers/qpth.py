"""qpth's batched interior point: the layer DeepEMD was published with, differentiated through its KKT conditions."""

import ctypes
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewshot_cli.contracts import Options, Plan, Solver, Tolerance
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say

LIBRARIES = (".so", ".dylib", ".dll")


class QPTHOptions(Options):
    """Options of `qpth`."""

    form: Literal["L2", "QP"] = Field(
        "L2",
        description="L2: min <c,x> + strength/2 |x|²; QP: min <c,x>²/2 + strength/2 |x|², with "
        "negative costs shifted to zero",
    )
    strength: float | None = Field(
        None, gt=0, description="the quadratic term (default: 1e-6 for L2, 1e-4 for QP, as in DeepEMD's code)"
    )
    max_iterations: int = Field(20, ge=1, description="interior-point iterations")
    tolerance: float = Field(
        1e-4,
        gt=0,
        description="error of the marginals, relative to the mass, beyond which a problem counts as not converged",
    )
    memory: float = Field(
        2.0, gt=0, description="GB that one chunk of problems may take", json_schema_extra={"speed": True}
    )


class QPTH(Solver[QPTHOptions]):
    """DeepEMD's quadratic program in double precision by qpth (Amos and Kolter 2017): close to exact, slow, heavy.

    Marginals are inequalities and the total mass is one equality, as DeepEMD's code poses it; totals are equal, so the
    optimum is the same. The plan carries the KKT gradient. Chunks bound the memory; with several, the backward pass
    solves each again instead of keeping its factors.
    """

    devices = ("cpu", "cuda")
    gradient = "autograd"
    tolerance = Tolerance(1e-4, 1e-5, 1e-2, False, largest=300)
    complexity = ("O(n⁶): dense factors of n² variables", 6)

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Why it cannot run here, or None."""
        try:
            _layer()
        except (ImportError, RuntimeError, OSError, AttributeError) as error:
            return f"qpth does not import ({error}); pip install --no-deps qpth"
        return None

    @property
    def certified(self) -> bool:
        """Whether the plan is meant to be the optimum: a `strength` of one's own asks for another."""
        return self.options.strength is None

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        """See `Solver.solve`; float64 inside. Flows may be negative by the interior point's accuracy."""
        batch, n, m = cost.shape
        iterations = torch.zeros(batch, dtype=torch.int64, device=cost.device)
        if not cost.numel():
            return Plan(torch.zeros_like(cost), None, None, iterations, iterations == 0)
        each = 8 * 7 * (n * m + n + m + 1) ** 2  # the factors of the KKT matrix and their copies
        size = max(1, int(self.options.memory * 1e9 / each))
        if cost.device.type == "cpu" and not _batches_are_safe():
            size = 1
        chunks = zip(*(x.double().split(size) for x in (cost, supply, demand)), strict=True)
        parts = [_Chunk.apply(*chunk, self._plan, size >= batch) for chunk in chunks]
        flow = torch.cat(parts)
        mass = supply.detach().double().sum(1)
        rows = (flow.detach().sum(2) - supply.detach()).abs().amax(1)
        columns = (flow.detach().sum(1) - demand.detach()).abs().amax(1)
        converged = torch.maximum(rows, columns) <= self.options.tolerance * mass  # false for NaN as well
        return Plan(flow.to(cost.dtype), None, None, iterations, converged)

    def _plan(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Tensor:
        batch, n, m = cost.shape
        if min(n, m) == 1:  # one plan only, for which the interior point has no room
            return supply[:, :, None] * demand[:, None, :] / supply.sum(1).clamp(min=1e-300)[:, None, None] + 0 * cost
        size = n * m
        new: dict[str, Any] = {"dtype": cost.dtype, "device": cost.device}
        c, eye = cost.reshape(batch, size), torch.eye(size, **new)
        rows = torch.eye(n, **new).repeat_interleave(m, 1)
        columns = torch.eye(m, **new).repeat(1, n)
        strength = self.options.strength or (1e-6 if self.options.form == "L2" else 1e-4)
        if self.options.form == "L2":
            quadratic, linear = strength * eye, c
        else:
            c = c - c.detach().amin(1, keepdim=True).clamp(max=0)  # the square of a negative total would be a maximum
            quadratic, linear = c[:, :, None] * c[:, None, :] + strength * eye, torch.zeros_like(c)
        limits = torch.cat([torch.zeros(batch, size, **new), supply, demand], 1)
        total = torch.minimum(supply.sum(1), demand.sum(1))[:, None]
        layer = _layer()(verbose=-1, maxIter=self.options.max_iterations, check_Q_spd=False)
        try:
            flow = layer(quadratic, linear, torch.cat([-eye, rows, columns]), limits, torch.ones(1, size, **new), total)
        except (RuntimeError, TypeError, AttributeError):
            flow = None
        # qpth gives nothing when its first factorisation fails; that is told as not converged
        return cost * torch.nan if flow is None else flow.reshape(batch, n, m)


class _Chunk(torch.autograd.Function):
    """The plan of one chunk; with `keep` the backward pass uses the factors of the forward pass, else it solves
    again.
    """

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, supply: Tensor, demand: Tensor, plan: Callable[..., Tensor], keep: bool
    ) -> Tensor:
        ctx.plan, ctx.graph = plan, None
        ctx.save_for_backward(cost, supply, demand)
        if not (keep and any(ctx.needs_input_grad)):
            return plan(cost, supply, demand)
        ctx.graph = _graph(plan, cost, supply, demand)
        return ctx.graph[1].detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        try:
            leaves, flow = ctx.graph or _graph(ctx.plan, *ctx.saved_tensors)
            return (*torch.autograd.grad(flow, leaves, grad), None, None)
        except RuntimeError as error:  # as its users know it: singular U
            raise DataError(
                f"qpth found no gradient, its KKT matrix is singular ({str(error).partition('. If')[0]}); "
                "use --solver network_simplex"
            ) from error
        finally:
            ctx.graph = None


def _graph(plan: Callable[..., Tensor], *given: Tensor) -> tuple[list[Tensor], Tensor]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in given]
        return leaves, plan(*leaves)


@cache
def _layer() -> Any:
    """qpth's QPFunction. It imports cvxpy for a solver that is not used here; an empty module stands in if there is
    none.
    """
    stand_in = "cvxpy" not in sys.modules and _absent("cvxpy")
    if stand_in:
        sys.modules["cvxpy"] = types.ModuleType("cvxpy")
    try:
        from qpth.qp import QPFunction
    finally:
        if stand_in:
            del sys.modules["cvxpy"]
    return QPFunction


def _absent(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is None


def _batches_are_safe() -> bool:
    """Whether LU factors of a batch can be asked of this process's threads.

    After `torch.set_num_threads` MKL starts as many threads for one matrix as for all, even inside the threads that
    share out a batch. Where it does not get them, it returns no pivots on some processors and waits for ever on others,
    so that nothing may be tried. PyTorch cannot be asked whether that was called, but MKL can: it is no longer dynamic.
    """
    if torch.get_num_threads() == 1 or not torch.backends.mkl.is_available() or _mkl_is_dynamic():
        return True
    _say_that_batches_are_split()
    return False


def _mkl_is_dynamic() -> bool:
    """Whether MKL takes fewer threads where it runs inside others; False where it does not say."""
    for path in (Path(torch.__file__).parent / "lib").glob("*torch_cpu.*"):
        for name in ("mkl_serv_get_dynamic", "MKL_Get_Dynamic", "mkl_get_dynamic") if path.suffix in LIBRARIES else ():
            with suppress(OSError, AttributeError):
                return bool(getattr(ctypes.CDLL(str(path)), name)())
    return False


@cache
def _say_that_batches_are_split() -> None:
    """Say it once in a process."""
    say(
        "note: PyTorch's LU of a batch is not safe with several threads after torch.set_num_threads, or it cannot be "
        "known here, so qpth solves one problem at a time; set OMP_NUM_THREADS=1, or leave set_num_threads out"
    )
