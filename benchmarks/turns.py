"""Contenders timed in turns, and OTT's Sinkhorn as one of them."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch


def in_turn(contenders: dict[str, Callable], rounds: int, device: torch.device | None = None) -> dict[str, float]:
    """Median seconds of each call, on a GPU until its work is done; the first round is a warm-up."""
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, call in contenders.items():
            wait()
            start = perf_counter()
            call()
            wait()
            times[name].append(perf_counter() - start)
    return {name: median(seen[1:]) for name, seen in times.items()}


def ott(given, epsilon: float, **options) -> Callable:
    """OTT's Sinkhorn under vmap and jit on problems of PyTorch's; ImportError where jax or ott-jax is not installed."""
    import jax
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    arrays = [jax.numpy.asarray(x.cpu().numpy()) for x in given]
    solve = sinkhorn.Sinkhorn(**options)

    @jax.jit
    @jax.vmap
    def run(cost, supply, demand):
        problem = linear_problem.LinearProblem(geometry.Geometry(cost, epsilon=epsilon), a=supply, b=demand)
        return solve(problem).matrix

    return lambda: run(*arrays).block_until_ready()
