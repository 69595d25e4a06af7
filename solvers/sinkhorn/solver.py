"""Entropic transport by Sinkhorn's iterations, batched in PyTorch: approximate, on any device, with its own gradient.

min <C,X> − ε H(X) over plans has the solution X = exp((u + v − C)/ε); u and v are found by matching rows and columns in
turn (Cuturi 2013). They live in the logarithmic domain, where a small ε does no harm; between two visits there the
iterations are matrix-vector products with the plan found so far (Schmitzer 2019, absorption). Problems that have
converged leave the batch.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewshot_cli.contracts import Options, Plan, Solver, Tolerance
from fewshot_cli.solvers.sinkhorn.scaling import scale

VISIT = 10  # iterations between two looks at the marginals
RESOLVED = 1e-3  # of ε: a plan's entries are wrong by as much, relatively
SPREAD = 15.0  # logarithm of the largest scaling that is not yet absorbed into the potentials


class EntropicOptions(Options):
    """Options of every entropic solver."""

    regularisation: float = Field(0.05, gt=0, description="ε, in units of cost")
    max_iterations: int = Field(2000, ge=1, description="iterations after which a problem counts as not converged")


class SinkhornOptions(EntropicOptions):
    """Options of `sinkhorn`."""

    stop: Literal["marginal", "value", "iterations", "change", "change_each"] = Field(
        "marginal",
        description="what `tolerance` is compared with: the L2 error of the marginals relative to the mass, or the "
        "relative change of <C,X> over 10 iterations; `iterations` runs all of max_iterations; "
        "`change` is the mean change of the "
        "row scaling over the whole batch (Multi-Proxy Wasserstein), `change_each` that of each problem",
    )
    tolerance: float = Field(1e-5, gt=0, description="see stop")
    scaling: float = Field(
        1.0,
        gt=0,
        le=1,
        description="ε starts at the largest cost and shrinks by this factor every 10 iterations; 1 starts at ε itself",
    )
    gradient: Literal["implicit", "unrolled", "stop"] = Field(
        "implicit",
        description="differentiate the fixed point (Luise et al. 2018), or through every iteration, or take the plan "
        "for a constant",
    )


LADDER: tuple[dict[str, Any], ...] = tuple({"regularisation": x} for x in (0.3, 0.1, 0.03, 0.01, 0.003))
COMPLEXITY = ("O(n²) an iteration, O(n² log n / δ²) to an error δ (Dvurechensky 2018)", 2.0)


class Sinkhorn(Solver[SinkhornOptions]):
    """Batched log-domain Sinkhorn on CPU and GPU; the plan carries its gradient, its value is <C,X> without the
    entropy.
    """

    devices = ("cpu", "cuda")
    gradient = "autograd"
    tolerance = Tolerance(0.02, 1e-4, 0.02, False)
    complexity = COMPLEXITY
    ladder = LADDER

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        """See `Solver.solve`; in the tensors' own precision. Prices are the potentials, optimal up to ε."""
        o, given = self.options, (cost.detach(), supply.detach(), demand.detach())
        differentiate = torch.is_grad_enabled() and any(x.requires_grad for x in (cost, supply, demand))
        unrolled = differentiate and o.gradient == "unrolled"
        u: Tensor | None = None
        v: Tensor | None = None
        if o.stop in ("change", "change_each"):
            with torch.set_grad_enabled(unrolled):
                inputs = (cost, supply, demand) if unrolled else given
                each = o.stop == "change_each"
                flow, iterations, converged = scale(*inputs, o.regularisation, o.max_iterations, o.tolerance, each)
        else:
            u, v, iterations, converged = _potentials(*given, o)
            if unrolled:
                flow = _unrolled(cost, supply, demand, o, int(iterations.max()) if len(cost) else 0)
            else:
                flow = _plan(given[0], u, v, o.regularisation)
        if differentiate and o.gradient == "implicit":
            flow = _Implicit.apply(cost, supply, demand, flow, o.regularisation)
        return Plan(flow, u, v, iterations, converged & _resolved(given[0], o.regularisation))


def _resolved(cost: Tensor, epsilon: float) -> Tensor:
    """Whether the last bits of costs [B,n,m], and of potentials as large, still say something in units of ε [B]."""
    if not cost.numel():
        return torch.ones(len(cost), dtype=torch.bool, device=cost.device)
    return cost.abs().amax((1, 2)) * torch.finfo(cost.dtype).eps <= RESOLVED * epsilon


def _plan(cost: Tensor, u: Tensor, v: Tensor, epsilon: float) -> Tensor:
    return ((u[:, :, None] + v[:, None, :] - cost) / epsilon).exp()


def _rows(cost: Tensor, log_supply: Tensor, v: Tensor, epsilon: float) -> Tensor:
    """The u that gives every row its supply; −∞ where there is none."""
    u = epsilon * (log_supply - torch.logsumexp((v[:, None, :] - cost) / epsilon, 2))
    return u.masked_fill(log_supply == -torch.inf, -torch.inf)


def _columns(cost: Tensor, log_demand: Tensor, u: Tensor, epsilon: float) -> Tensor:
    v = epsilon * (log_demand - torch.logsumexp((u[:, :, None] - cost) / epsilon, 1))
    return v.masked_fill(log_demand == -torch.inf, -torch.inf)


def _schedule(cost: Tensor, options: SinkhornOptions) -> list[float]:
    """ε of each stage; the last is the one asked for."""
    stages: list[float] = []
    epsilon = float(cost.abs().amax()) if cost.numel() else 0.0
    most = max(0, options.max_iterations - VISIT) // VISIT  # room for at least one look at the ε asked for
    while options.scaling < 1 and epsilon > options.regularisation and len(stages) < most:
        stages.append(epsilon)
        epsilon *= options.scaling
    return [*stages, options.regularisation]


def _potentials(
    cost: Tensor, supply: Tensor, demand: Tensor, options: SinkhornOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u [B,n], v [B,m], iterations [B] and converged [B]."""
    batch = len(cost)
    u, v = torch.zeros_like(supply), torch.zeros_like(demand)
    iterations = torch.zeros(batch, dtype=torch.int64, device=cost.device)
    converged = torch.zeros(batch, dtype=torch.bool, device=cost.device)
    if not cost.numel():
        return u, v, iterations, ~converged
    log_s, log_d = supply.log(), demand.log()
    *stages, epsilon = _schedule(cost, options)
    for stage in stages:
        for _ in range(VISIT):
            u = _rows(cost, log_s, v, stage)
            v = _columns(cost, log_d, u, stage)
    done = VISIT * len(stages)
    iterations += done
    left = torch.arange(batch, device=cost.device)  # problems still at work
    c, s, d, f, g = cost, supply, demand, u, v
    last, fresh = None, True
    while done < options.max_iterations:
        if fresh:  # one visit to the logarithmic domain makes the plan a well-scaled matrix
            f = _rows(c, s.log(), g, epsilon)
            g = _columns(c, d.log(), f, epsilon)
            kernel, done, fresh = _plan(c, f, g, epsilon), done + 1, False
            a, b = torch.ones_like(s), torch.ones_like(d)
        for _ in range(min(VISIT - 1, options.max_iterations - done)):
            a = _ratio(s, torch.bmm(kernel, b[:, :, None])[:, :, 0])
            b = _ratio(d, torch.bmm(a[:, None, :], kernel)[:, 0])
            done += 1
        shipped = a * torch.bmm(kernel, b[:, :, None])[:, :, 0]
        spread = torch.maximum(_log(a).abs().amax(), _log(b).abs().amax())
        if not bool(torch.isfinite(shipped).all() & torch.isfinite(b).all()):  # too far for one absorption
            for _ in range(VISIT):
                f = _rows(c, s.log(), g, epsilon)
                g = _columns(c, d.log(), f, epsilon)
            done, fresh = done + VISIT, True
            u[left], v[left], iterations[left] = f, g, done
            continue
        if options.stop == "marginal":
            ready = (shipped - s).norm(dim=1) <= options.tolerance * s.sum(1)
        elif options.stop == "value":
            now = torch.einsum("bn,bnm,bm->b", a, kernel * c, b)
            ready = (
                torch.zeros_like(now, dtype=torch.bool)
                if last is None
                else (now - last).abs() <= options.tolerance * now.abs()
            )
            last = now
        else:
            ready = torch.full_like(left, done >= options.max_iterations, dtype=torch.bool)
        absorb = float(spread) > SPREAD
        leaving = int(ready.sum())
        if leaving or absorb or done >= options.max_iterations:
            f, g = f + epsilon * _log(a), g + epsilon * _log(b)
            u[left], v[left], iterations[left], converged[left] = f, g, done, ready
            if leaving == len(left):
                break
            if leaving:
                stay = ~ready
                left, c, s, d, f, g = (x[stay] for x in (left, c, s, d, f, g))
                last = last[stay] if last is not None else None
            kernel, a, b = _plan(c, f, g, epsilon), torch.ones_like(s), torch.ones_like(d)
    return u, v, iterations, converged


def _ratio(mass: Tensor, sums: Tensor) -> Tensor:
    """mass / sums, and 0 where there is no mass."""
    return torch.where(mass > 0, mass / sums, 0)


def _log(scaling: Tensor) -> Tensor:
    """Logarithm, and 0 for nodes without mass, whose potential is −∞ already."""
    return torch.where(scaling > 0, scaling, 1).log()


def _unrolled(cost: Tensor, supply: Tensor, demand: Tensor, options: SinkhornOptions, iterations: int) -> Tensor:
    """The plan after so many iterations, all of them in the graph."""
    *stages, epsilon = _schedule(cost.detach(), options)
    some = supply.detach().sum(1, keepdim=True) > 0  # problems without mass get any, and no flow
    supply, demand = torch.where(some, supply, 1), torch.where(some, demand, 1)
    log_s, log_d = (torch.where(x > 0, x, 1).log().masked_fill(x == 0, -torch.inf) for x in (supply, demand))
    v = torch.zeros_like(demand)
    for stage in [x for x in stages for _ in range(VISIT)] + [epsilon] * (iterations - VISIT * len(stages)):
        u = _rows(cost, log_s, v, stage)
        v = _columns(cost, log_d, u, stage)
    return torch.where(some[:, :, None], _plan(cost, u, v, epsilon), 0)


class _Implicit(torch.autograd.Function):
    """The plan as a function of cost, supply and demand, differentiated at the fixed point.

    With G the gradient of the plan X, solve [diag(X1) X; Xᵀ diag(Xᵀ1)] [α; β] = [(G∘X)1; (G∘X)ᵀ1]. Then the cost gets
    X ∘ (α + β − G) / ε, the supply α, the demand β.
    """

    @staticmethod
    def forward(ctx: Any, cost: Tensor, supply: Tensor, demand: Tensor, flow: Tensor, epsilon: float) -> Tensor:
        flow = flow.clone()
        ctx.save_for_backward(flow)
        ctx.epsilon = epsilon
        return flow

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (flow,) = ctx.saved_tensors
        x, g = flow.double(), grad.double()
        s, d = x.sum(2), x.sum(1)
        inverse = torch.where(s > 0, 1 / s, 0)
        weighted = g * x
        left, right = weighted.sum(2), weighted.sum(1)
        # eliminate α; the constant that could move between α and β is fixed by the added multiple of d dᵀ
        schur = torch.diag_embed(torch.where(d > 0, d, 1)) - x.mT @ (inverse[:, :, None] * x)
        schur = schur + d[:, :, None] * d[:, None, :] / d.sum(1).clamp(min=1e-300)[:, None, None]
        schur = schur + 1e-14 * torch.diag_embed(d.amax(1, keepdim=True).expand_as(d))
        target = right - (x.mT @ (inverse * left)[:, :, None])[:, :, 0]
        beta = torch.cholesky_solve(target[:, :, None], torch.linalg.cholesky(schur))[:, :, 0]
        alpha = inverse * (left - (x @ beta[:, :, None])[:, :, 0])
        to_cost = x * (alpha[:, :, None] + beta[:, None, :] - g) / ctx.epsilon
        return (*(y.to(flow.dtype) for y in (to_cost, alpha, beta)), None, None)
