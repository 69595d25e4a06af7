"""How far plans of transport problems can be from their optimum, from costs, flows and prices alone, whoever made them.

Weak duality: whatever u is, v_j = min_i (c_ij − u_i) makes both dual feasible, so that <u,s> + <v,d> is at most the
optimum, and <c,X> of a plan with the right marginals is at least it. Prices that a solver does not return are found
from its flow by Bellman and Ford's shortest paths: an optimal plan leaves no cycle along which it could be improved.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.contracts import Plan, Tolerance
from fewshot_cli.kernels import nvrtc, proof
from fewshot_cli.kernels.threads import over_batch

LEAST = 128  # problems worth a thread
RARE = 1e-3  # of the largest |cost|: where a plan pays less on average, most of it may say nothing about that plan
ROUNDING = 8  # times the last bit of the type: what a solver's own arithmetic may leave


def certify(cost: Tensor, supply: Tensor, demand: Tensor, plan: Plan, near: Tolerance, workers: int = 0) -> Plan:
    """The plan with its `value` and `certified_gap`, and `converged` only where that and the marginals are within the
    tolerance.

    cost [B,n,m], supply [B,n], demand [B,m]; the plan is theirs. `workers`: threads on the CPU, 0 for every core.
    """
    if not cost.numel():
        return plan
    given = Given(*(_plain(x, cost.dtype) for x in (cost, supply, demand, plan.flow)))
    prices = None if plan.supply_price is None else _plain(plan.supply_price, cost.dtype)
    n, m = cost.shape[1:]
    if prices is not None and cost.device.type == "cuda" and nvrtc.works() and proof.fits(n, m, cost.device):
        gap, fine, value = proof.certify(given, prices, near.value, near.marginal, _bit(cost))
    else:
        gap, fine, value = (on_cpu if cost.device.type == "cpu" else by_tensors)(given, prices, near, workers)
    return replace(plan, converged=plan.converged & fine, certified_gap=gap, value=value)


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype == dtype and x.is_contiguous() and not x.requires_grad:  # as it mostly is
        return x
    return x.detach().to(dtype).contiguous()


class Given(NamedTuple):
    """Problems and their plans: cost [B,n,m], supply [B,n], demand [B,m] and flow [B,n,m], of one type."""

    cost: Tensor
    supply: Tensor
    demand: Tensor
    flow: Tensor


def on_cpu(given: Given, prices: Tensor | None, near: Tolerance, workers: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Gaps [B], whether each is within the tolerance [B], and values [B] of the plans, compiled and by threads."""
    try:
        from fewshot_cli.kernels.bounds import certify_range
    except ImportError:  # without Numba
        return by_tensors(given, prices, near)
    arrays = [x.numpy() for x in given]
    u = prices.numpy() if prices is not None else arrays[1]
    limits = (prices is not None, near.value, near.marginal, _bit(given.cost))
    gaps, fine, values = np.empty(len(u)), np.empty(len(u), bool), np.empty(len(u), u.dtype)

    def run(start: int, stop: int) -> None:
        certify_range(*arrays, u, *limits, gaps, fine, values, start, stop)

    over_batch(run, len(u), workers, LEAST)
    return torch.from_numpy(gaps), torch.from_numpy(fine), torch.from_numpy(values)


def within(gap: Any, off: Any, imbalance: Any, price: Any, value: float, marginal: float, bit: float) -> Any:
    """Whether a plan is optimal within the tolerances `value` and `marginal`, beyond what rounding and totals that
    differ explain; false for NaN. Of numbers, where it is compiled, or of tensors [B].
    """
    slack = bit * (1 + price) + imbalance * (2 + price)
    return (abs(gap) <= value + slack) & (off <= marginal + bit + 2 * imbalance)


def mattering(cost: Tensor, flow: Tensor, least: Tensor, top: Tensor) -> Tensor:
    """The largest |cost| [B] that a plan pays for more than `least` [B] of its mass, or that half of the supply nodes
    have a second arc for: what forbids an arc, 1e9, must not hide what the others cost. `top` [B] where that is zero.
    """
    size = cost.abs().double()
    paid = torch.where(flow > least[:, None, None], size, 0.0).amax((1, 2))
    second = size.kthvalue(min(2, size.shape[2]), dim=2).values
    scale = torch.maximum(paid, second.kthvalue((size.shape[1] + 1) // 2, dim=1).values)
    return torch.where(scale > 0, scale, top)


def _bit(cost: Tensor) -> float:
    """What rounding makes of the sums over the nodes, relative to them."""
    return (ROUNDING + math.sqrt(max(cost.shape[1:]))) * torch.finfo(cost.dtype).eps


def by_tensors(given: Given, prices: Tensor | None, near: Tolerance, _: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The same in whole tensors, for any device; the host does not wait for it."""
    cost, supply, demand, flow = given
    n, m = cost.shape[1:]
    mass, other = supply.double().sum(1), demand.double().sum(1)
    top = cost.abs().amax((1, 2)).double()
    top = torch.where(top > 0, top, 1.0)
    if prices is None:
        shipped = flow > (near.value * mass / (n + m))[:, None, None]
        v = torch.zeros_like(demand)
        for _ in range(n + m):
            prices = (cost - v[:, None]).amin(2)
            need = torch.where(shipped, cost - prices[:, :, None], -torch.inf).amax(1)
            v = torch.maximum(v, need)
        prices = (cost - v[:, None]).amin(2)
    v = (cost - prices[:, :, None]).amin(1)
    primal = (cost * flow).sum((1, 2), dtype=torch.float64)
    dual = (prices.double() * supply).sum(1) + (v.double() * demand).sum(1)
    rows, columns = (flow.sum(2, dtype=torch.float64) - supply).abs(), (flow.sum(1, dtype=torch.float64) - demand).abs()
    off = torch.stack([rows.amax(1), columns.amax(1), -flow.amin((1, 2)).double()]).amax(0)
    price = torch.maximum(prices.abs().amax(1), v.abs().amax(1)).double()
    rare = primal.abs() < RARE * mass * top
    scale = torch.where(rare, mattering(cost, flow, near.value * mass / (n + m), top), top)
    gap, top = torch.where(mass > 0, (primal - dual) / mass / scale, 0.0), scale
    limits = (near.value, near.marginal, _bit(cost))
    fine = within(gap, off / mass, (mass - other).abs() / mass, price / top, *limits)
    return gap, fine | (mass <= 0), primal.to(cost.dtype)
