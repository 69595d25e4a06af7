"""Optimal transport on tensors: exact and batched, with prices and gradients, whatever it is used for.

The problem is min <C,X> over flows X ≥ 0 with X1 = supply and Xᵀ1 = demand. Its optimal value is differentiable: the
flow is the gradient with respect to the cost, the dual prices are those with respect to supply and demand.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import registry, transport
from fewshot_cli.config.load import validate_options
from fewshot_cli.config.parts import build_solver
from fewshot_cli.config.schema import PartSpec
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.errors import DataError
from fewshot_cli.kernels import gradient

_solvers: dict[str, Solver[Any]] = {}  # by name and options, since compiled code can name them by text only
_KEPT = 128  # of them: a program that changes an option at every step makes ever new ones


class Status(StrEnum):
    """How a plan ended, in words."""

    OPTIMAL = "optimal: a lower bound on the value proves it within the solver's tolerance"
    APPROXIMATE = "converged by the solver's own measure, which proves no optimum"
    NOT_CONVERGED = "not converged: the flow of at least one problem is not within the solver's tolerance"


@dataclass(frozen=True)
class TransportPlan:
    """What was shipped, what it costs and what it is worth; `…` are the batch dimensions of the problems.

    `flow` […,n,m]; `value` […], its cost; `supply_price` […,n] and `demand_price` […,m] are the gradients of the value
    with respect to supply and demand, None from a solver without prices; `iterations` […]; `converged` […] bool;
    `certified_gap` […] is how far the value is above a lower bound on the optimum, relative to mass · largest |cost|,
    None from a solver that claims no optimum.
    """

    flow: Tensor
    value: Tensor
    supply_price: Tensor | None
    demand_price: Tensor | None
    iterations: Tensor
    converged: Tensor
    certified_gap: Tensor | None

    @property
    def status(self) -> Status:
        """How the problems ended, the worst of them; its value is a sentence."""
        if not bool(self.converged.all()):
            return Status.NOT_CONVERGED
        return Status.APPROXIMATE if self.certified_gap is None else Status.OPTIMAL


def solver(name: str = "network_simplex", **options: Any) -> Solver[Any]:
    """A solver by name with its options, for `emd` and `plan`; the same one for the same options.

    Raises `RecipeError` for an unknown name or option, and where the solver cannot run here.
    """
    key = f"{name} {json.dumps(options, sort_keys=True)}"
    if key not in _solvers:
        checked = validate_options(registry.solver(name).Options, options, f"solver {name}")
        while len(_solvers) >= _KEPT:
            del _solvers[next(iter(_solvers))]
        _solvers[key] = build_solver(PartSpec(name=name, options=checked))
    return _solvers[key]


def emd(
    cost: Tensor,
    supply: Tensor | None = None,
    demand: Tensor | None = None,
    *,
    solver: str | Solver[Any] = "network_simplex",
) -> Tensor:
    """Earth mover's distance […] of each problem: the least cost of moving `supply` […,n] to `demand` […,m] at `cost`
    […,n,m], differentiable in all three.

    Leading dimensions are broadcast; [n,m] alone gives a scalar. A side that is None is uniform, with the mass of the
    other, or one. Float64 is solved in float64, anything narrower in float32, whole numbers in float64. CPU and CUDA.
    Works under `torch.func.vmap`, `torch.func.grad` and `torch.compile`; a second derivative is refused with a
    `RuntimeError`. `solver` is a name, or what `fewshot_cli.solver` made; one without prices gives supply and demand no
    gradient.

    Raises `DataError` for NaN, infinities, negative mass and totals that differ, `ValueError` for shapes that do not
    go together, `RecipeError` for an unknown solver.
    """
    c, s, d, lead = _problems(cost, supply, demand)
    return _valued(solver, c, s, d).reshape(lead)


def sinkhorn(
    cost: Tensor,
    supply: Tensor | None = None,
    demand: Tensor | None = None,
    *,
    epsilon: float = 0.05,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
) -> Tensor:
    """Cost <C,X> […] of the plan with entropy `epsilon` (in units of cost): approximate, smooth, on any device.

    Arguments, broadcasting and errors are those of `emd`; `tolerance` is the marginals' L2 error relative to the mass.
    The gradient is that of the fixed point (implicit). Problems that are not converged after `max_iterations` are
    valued as they are; `plan` with `solver("sinkhorn", …)` tells.
    """
    options = {"regularisation": epsilon, "tolerance": tolerance, "max_iterations": max_iterations}
    c, s, d, lead = _problems(cost, supply, demand)
    return _valued(_made("sinkhorn", **options), c, s, d).reshape(lead)


@torch.no_grad()
def plan(
    cost: Tensor,
    supply: Tensor | None = None,
    demand: Tensor | None = None,
    *,
    solver: str | Solver[Any] = "network_simplex",
) -> TransportPlan:
    """The whole answer to the problems of `emd`: flow, prices, and a proof that it is the optimum.

    Arguments, broadcasting and errors are those of `emd`. Nothing in it carries a gradient. It takes batches itself,
    and raises `DataError` under `torch.func.vmap`.
    """
    if not all(_has_storage(x) for x in (cost, supply, demand) if x is not None):
        raise DataError("plan takes a whole batch of problems at once; call it outside of torch.func")
    c, s, d, lead = _problems(cost, supply, demand)
    c, s, d = transport.alike(c, s, d)
    chosen = _solver_of(solver)
    transport.check(c, s, d)
    if c.numel() == 0:
        zeros, ones = c.new_zeros(len(c)), torch.ones(len(c), dtype=torch.bool, device=c.device)
        found = Plan(c, s * 0, d * 0, zeros.long(), ones, certified_gap=zeros)
    else:
        found = _on_its_device(chosen, transport.solve, c, s, d)
    u, v = found.supply_price, found.demand_price
    if u is not None and v is not None and c.numel():
        u, v = gradient.centred(u, v)

    def whole(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(c.device).reshape((*lead, *x.shape[1:]))

    rest = [whole(x) for x in (u, v, found.iterations, found.converged, found.certified_gap)]
    return TransportPlan(whole(found.flow), whole(transport.worth(c, found)), *rest)  # type: ignore[arg-type]


def _problems(
    cost: Tensor, supply: Tensor | None, demand: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    """Cost [B,n,m], supply [B,n], demand [B,m] and the shape that B stands for. Raises `ValueError`."""
    if cost.ndim < 2:
        raise ValueError(f"cost {list(cost.shape)} is no matrix; give costs […, n, m]")
    n, m = cost.shape[-2:]
    if cost.ndim == 3 and supply is not None and demand is not None:
        batch = len(cost)
        if supply.shape == (batch, n) and demand.shape == (batch, m):  # as they are mostly given
            return cost, supply, demand, (batch,)
    for name, side, nodes in (("supply", supply, n), ("demand", demand, m)):
        if side is not None and (side.ndim < 1 or side.shape[-1] != nodes):
            raise ValueError(f"{name} {list(side.shape)} does not go with cost {list(cost.shape)}; give […, {nodes}]")
    try:
        lead = torch.broadcast_shapes(
            *(x.shape[:-k] for x, k in ((cost, 2), (supply, 1), (demand, 1)) if x is not None)
        )
    except RuntimeError as error:
        shapes = [None if x is None else list(x.shape) for x in (cost, supply, demand)]
        raise ValueError(f"cost, supply and demand have shapes that do not go together: {shapes}") from error
    supply = _uniform(cost, n, demand) if supply is None else supply
    demand = _uniform(cost, m, supply) if demand is None else demand
    batch = lead.numel()
    return (
        cost.expand(*lead, n, m).reshape(batch, n, m),
        supply.expand(*lead, n).reshape(batch, n),
        demand.expand(*lead, m).reshape(batch, m),
        tuple(lead),
    )


def _uniform(cost: Tensor, nodes: int, other: Tensor | None) -> Tensor:
    """Equal masses of so many nodes with the total of the other side, or one."""
    if other is None:
        dtype = cost.dtype if cost.is_floating_point() else torch.float64
        return torch.full(
            (nodes,), 1 / max(1, nodes), dtype=torch.promote_types(dtype, torch.float32), device=cost.device
        )
    # half precision has too few digits for a total
    total = other.to(torch.promote_types(other.dtype, torch.float32)) if other.is_floating_point() else other.double()
    return (total.sum(-1, keepdim=True) / max(1, nodes)).expand(*other.shape[:-1], nodes)


def _on_its_device(chosen: Solver[Any], work: Callable[..., Any], *given: Tensor) -> Any:
    """What `work` makes of a solver and problems, which go to the CPU and back where it takes no others."""
    device = given[0].device
    if device.type in chosen.devices:
        return work(chosen, *given)
    found = work(chosen, *(x.cpu() for x in given))
    return found.to(device) if isinstance(found, Tensor) else found


_made = solver  # where a parameter has its name


def _solver_of(chosen: str | Solver[Any]) -> Solver[Any]:
    return _made(chosen) if isinstance(chosen, str) else chosen


def _by_key(key: str) -> Solver[Any]:
    """The solver that `_key` named, made again where compiled code was loaded from elsewhere."""
    name, _, options = key.partition(" ")
    return _solvers.get(key) or _made(name, **json.loads(options))


def _key(chosen: str | Solver[Any]) -> str:
    """A text by which `_opaque` finds a solver."""
    if isinstance(chosen, str):
        return f"{chosen} {{}}"
    for key, known in _solvers.items():
        if known is chosen:
            return key
    raise DataError("under torch.compile a solver is given by name, or as fewshot_cli.solver made it")


def _valued(chosen: str | Solver[Any], cost: Tensor, supply: Tensor, demand: Tensor) -> Tensor:
    """The value [B] of problems; where tensors stand for others (`torch.compile`, `torch.func`), by one operation."""
    if torch.compiler.is_compiling() and (isinstance(chosen, str) or chosen.gradient == "envelope"):
        return _opaque(*transport.alike(cost, supply, demand), _key(chosen))[0]
    if torch.compiler.is_compiling() or all(map(_has_storage, (cost, supply, demand))):
        return _on_its_device(_solver_of(chosen), transport.value, cost, supply, demand)
    return _Vectorised.apply(*transport.alike(cost, supply, demand), _key(chosen))[0]


def _has_storage(x: Tensor) -> bool:
    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return True


@torch.library.custom_op("fewshot_cli::emd", mutates_args=())
def _opaque(cost: Tensor, supply: Tensor, demand: Tensor, key: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values [B] of problems, and their gradients with respect to cost, supply and demand."""
    given, chosen = (cost, supply, demand), _by_key(key)
    if chosen.gradient == "autograd":
        raise DataError(
            f"solver {type(chosen).__name__} differentiates itself, which torch.func and torch.compile cannot see; "
            "it takes batches: give it all problems at once, outside of them"
        )
    transport.check(*given)
    if cost.numel() == 0:
        return cost.new_zeros(len(cost)), torch.zeros_like(cost), torch.zeros_like(supply), torch.zeros_like(demand)
    found = _on_its_device(chosen, transport.solve, *given)
    flow = found.flow.to(cost.device)
    u, v = (x if x is None else x.to(cost.device) for x in (found.supply_price, found.demand_price))
    _, d_supply, d_demand = gradient.of_plans((False, True, True), cost.new_ones(len(cost)), flow, u, v)
    return (
        transport.worth(cost, found),
        flow,
        torch.zeros_like(supply) if d_supply is None else d_supply,
        torch.zeros_like(demand) if d_demand is None else d_demand,
    )


@_opaque.register_fake
def _(cost: Tensor, supply: Tensor, demand: Tensor, key: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like = torch.contiguous_format
    d_supply, d_demand = (torch.empty_like(x, memory_format=like) for x in (supply, demand))
    return cost.new_empty(len(cost)), torch.empty_like(cost, memory_format=like), d_supply, d_demand


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


def _derive(ctx: Any, grad: Tensor | None, *second: Tensor | None) -> tuple[Tensor | None, ...]:
    if any(x is not None for x in second):
        raise transport.double_backward()
    if grad is None:
        return (None,) * 4
    d_cost, d_supply, d_demand = ctx.saved_tensors
    return grad[:, None, None] * d_cost, grad[:, None] * d_supply, grad[:, None] * d_demand, None


_opaque.register_autograd(_derive, setup_context=_remember)


class _Vectorised(torch.autograd.Function):
    """`_opaque` under `torch.func`: a batch that `vmap` adds becomes part of the problems'."""

    @staticmethod
    def forward(cost: Tensor, supply: Tensor, demand: Tensor, key: str) -> tuple[Tensor, ...]:
        return _opaque(cost, supply, demand, key)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        _remember(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *second: Tensor | None) -> tuple[Tensor | None, ...]:
        return _derive(ctx, grad, *second)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *given: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        size = info.batch_size
        whole = [
            x.expand(size, *x.shape) if at is None else x.movedim(at, 0) for x, at in zip(given[:3], dims, strict=False)
        ]
        found = _Vectorised.apply(*(x.flatten(0, 1) for x in whole), given[3])
        return tuple(x.unflatten(0, (size, whole[0].shape[1])) for x in found), (0,) * 4
