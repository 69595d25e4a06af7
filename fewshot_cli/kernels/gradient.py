"""The gradient of transport problems' values, of plans and prices: see `transport`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot_cli.kernels.threads import over_batch

LEAST = 1024  # problems worth a thread
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def centred(supply_price: Tensor, demand_price: Tensor) -> tuple[Tensor, Tensor]:
    """Prices [B,n] and [B,m] shifted against each other so that both have the same mean."""
    shift = (demand_price.mean(1, keepdim=True) - supply_price.mean(1, keepdim=True)) / 2
    return supply_price + shift, demand_price - shift


def of_plans(
    needed: Sequence[bool],
    grad: Tensor,
    flow: Tensor,
    supply_price: Tensor | None,
    demand_price: Tensor | None,
    workers: int = 0,
) -> Gradients:
    """Gradients of cost [B,n,m], supply [B,n] and demand [B,m], those that are `needed`, of values' `grad` [B].

    The cost's is the flow, the masses' are the `centred` prices, which not all solvers have. `workers`: threads on the
    CPU, 0 for every core.
    """
    if supply_price is None or demand_price is None:
        return grad[:, None, None] * flow if needed[0] else None, None, None
    given = flow, supply_price, demand_price
    if all(x.device.type == "cpu" and x.dtype == grad.dtype and x.is_contiguous() for x in given):
        try:
            return _compiled(needed, grad, *given, workers)
        except ImportError:  # without Numba
            pass
    return by_tensors(needed, grad, *given)


def by_tensors(
    needed: Sequence[bool], grad: Tensor, flow: Tensor, supply_price: Tensor, demand_price: Tensor
) -> Gradients:
    """The same in whole tensors, for any device."""
    d_cost = grad[:, None, None] * flow if needed[0] else None
    if not (needed[1] or needed[2]):
        return d_cost, None, None
    u, v = centred(supply_price, demand_price)
    return d_cost, grad[:, None] * u if needed[1] else None, grad[:, None] * v if needed[2] else None


def _compiled(
    needed: Sequence[bool], grad: Tensor, flow: Tensor, supply_price: Tensor, demand_price: Tensor, workers: int
) -> Gradients:
    """In one pass: each operation of PyTorch's costs tens of microseconds after a solver had the caches."""
    from fewshot_cli.kernels.bounds import gradient_range

    masses = needed[1] or needed[2]
    out = [
        torch.empty(x.shape if wanted else (0, *x.shape[1:]), dtype=x.dtype)
        for x, wanted in ((flow, needed[0]), (supply_price, masses), (demand_price, masses))
    ]
    arrays = [x.detach().numpy() for x in (grad.contiguous(), flow, supply_price, demand_price, *out)]
    over_batch(lambda begin, end: gradient_range(*arrays, begin, end), len(grad), workers, LEAST)
    d_cost, d_supply, d_demand = (x if wanted else None for x, wanted in zip(out, needed, strict=True))
    return d_cost, d_supply, d_demand
