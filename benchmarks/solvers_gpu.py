"""The network simplex on a GPU: exactness against the CPU, problems per second by size, and what else runs there.

    python benchmarks/solvers_gpu.py [--device cuda] [--tiny] [--tune]

Problems are those of `fewshot_cli.profiling.problems`. Device time by events, the median of the rounds; three batches
take turns, so that large ones are not read from the cache; the wall clock beside it shows the launch. `--tune` tries
other numbers of lanes and registers. `--device cpu --tiny` runs the same on a machine without a GPU. Prints JSON.
"""

import argparse
import json
import math
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import perf_counter

import torch

from fewshot_cli import registry, transport
from fewshot_cli.profiling.problems import generated
from fewshot_cli.profiling.solvers import _clock
from fewshot_cli.runtime import runs
from fewshot_cli.runtime.device import machine

SIZES = [(9, 9), (13, 13), (25, 4), (25, 25), (40, 30), (36, 36), (64, 4), (49, 25), (49, 49), (64, 64), (100, 100)]
TUNED = [(9, 9), (25, 25), (64, 4), (49, 25), (49, 49), (64, 64), (100, 100)]


def spread(given, batch: int, device) -> list:
    """Three batches of so many problems, repeated where the given ones are fewer."""
    repeat = -(-batch // len(given[0]))
    return [tuple(torch.cat([x.roll(k, 0)] * repeat)[:batch].to(device) for x in given) for k in range(3)]


def rate(call, given, batch: int, device, rounds: int) -> dict:
    """Seconds of `call(*problems)` on the device and by the clock, and problems per second."""
    inputs = spread(given, batch, device)
    for problems in inputs:
        call(*problems)
    on_device = [_clock(device, lambda k=k: call(*inputs[k % 3])) for k in range(rounds)]
    start = perf_counter()
    for k in range(rounds):
        call(*inputs[k % 3])
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall = (perf_counter() - start) / rounds
    median = statistics.median(on_device)
    return {"batch": batch, "device_seconds": median, "wall_seconds": wall, "problems_per_second": batch / median}


def exactness(solver, sizes, count: int, device) -> list[dict]:
    """Largest gaps, relative to the value, between the device's float32 answers and the CPU's float64 optimum."""
    reference, rows = registry.solver("network_simplex")(), []
    for n, m in sizes:
        given = generated(n, m, count, seed=5)
        wide = tuple(x.double() for x in given)
        best = (wide[0] * reference.solve(*wide).flow).sum((1, 2))
        plan = solver.solve(*(x.to(device) for x in given))
        flow, u, v = (x.cpu().double() for x in (plan.flow, plan.supply_price, plan.demand_price))
        primal, dual = (wide[0] * flow).sum((1, 2)), (u * wide[1]).sum(1) + (v * wide[2]).sum(1)
        rows.append(
            {
                "size": f"{n}x{m}",
                "problems": count,
                "relative_gap": float(((primal - best) / best).abs().max()),
                "relative_dual_gap": float(((dual - best) / best).abs().max()),
                "converged": bool(plan.converged.all()),
                "pivots": float(plan.iterations.double().mean()),
            }
        )
    return rows


def valued(simplex, backward: bool):
    """A call of `transport.value`, checks and proof included, and of its gradient."""

    def forward(*problems):
        with torch.no_grad():
            transport.value(simplex, *problems)

    def both(*problems):
        leaves = [x.detach().requires_grad_() for x in problems]
        transport.value(simplex, *leaves).sum().backward()

    return both if backward else forward


def others(kinds, device, tiny: bool) -> list[dict]:
    """The same problems by the other solvers that work on the device, and by the network simplex on the CPU."""
    rows = []
    for (n, m), given in kinds.items():
        size, few = f"{n}x{m}", min(n * m, 625) == n * m
        for name, batch in (("sinkhorn", 375), ("sinkhorn", 10_000), ("pot_sinkhorn", 375), ("qpth", 8)):
            cls = registry.solver(name)
            if cls.unavailable_reason() is None and (few or name == "sinkhorn"):
                batch = min(batch, 8) if tiny else batch
                rows.append({"solver": name, "size": size, **rate(cls().solve, given, batch, device, 3)})
        cpu, cls = torch.device("cpu"), registry.solver("network_simplex")
        for workers in (1, 0):
            solver = cls(cls.Options(workers=workers))
            figures = rate(solver.solve, given, 10 if tiny else 2_000, cpu, 3)
            rows.append({"solver": f"network_simplex on the CPU, {workers or 'all'} threads", "size": size, **figures})
    return rows


def tune(kinds, device, rounds: int) -> list[dict]:
    """Problems per second for other numbers of lanes and of registers, with and without machine code for the size."""
    from fewshot_cli.solvers.network_simplex import cuda

    usual, solver = (cuda.lanes, cuda.registers, cuda.KNOWN), registry.solver("network_simplex")()
    trials = [
        (size, lanes, registers, known)
        for size in kinds
        for lanes in ((32,) if sum(size) <= 50 else (32, 64, 128))
        for registers, known in (
            *((r, usual[2]) for r in ((48, 64, 80, 96, 128) if lanes == usual[0](*size) else (64, 96))),
            *([(usual[1](*size), 0)] if lanes == usual[0](*size) else []),
        )
    ]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        list(pool.map(_compiled, trials))  # into CuPy's cache
    rows = []
    for size, *setting in trials:
        _choose(*setting)
        given, batch = kinds[size], 50_000 if math.prod(size) < 1000 else 10_000
        names = dict(zip(("lanes", "registers", "size_known"), setting, strict=True))
        rows.append({"size": "x".join(map(str, size)), **names, **rate(solver.solve, given, batch, device, rounds)})
    cuda.lanes, cuda.registers, cuda.KNOWN = usual
    cuda._sizes.clear()
    return rows


def _choose(lanes: int, registers: int, known: int) -> None:
    from fewshot_cli.solvers.network_simplex import cuda

    cuda.lanes, cuda.registers, cuda.KNOWN = lambda n, m: lanes, lambda n, m: registers, known
    cuda._sizes.clear()


def _compiled(trial) -> None:
    from fewshot_cli.solvers.network_simplex import cuda

    (n, m), *setting = trial
    _choose(*setting)
    cuda.solve(*(torch.ones(1, *shape, device="cuda") for shape in ((n, m), (n,), (m,))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    device = torch.device(asked.device)
    sizes, batches = ([(4, 4), (6, 3)], [10]) if asked.tiny else (SIZES, [375, 10_000, 50_000])
    simplex = registry.solver("network_simplex")()
    kinds = {size: generated(*size, 10 if asked.tiny else 375) for size in sizes}
    middle = kinds[(4, 4) if asked.tiny else (25, 25)]
    result = {
        "device": machine(device),
        "versions": runs.versions(),
        "exactness": exactness(simplex, sizes, 10 if asked.tiny else 1500, device),
        "network_simplex": [
            {"size": f"{n}x{m}", **rate(simplex.solve, kinds[n, m], batch, device, asked.rounds)}
            for n, m in sizes
            for batch in batches
            if n * m < 4000 or batch < 50_000
        ],
        "value": [
            {"gradient": backward, **rate(valued(simplex, backward), middle, batch, device, asked.rounds)}
            for batch in batches
            for backward in (False, True)
        ],
        "others": others({size: kinds[size] for size in sizes if asked.tiny or size in TUNED}, device, asked.tiny),
    }
    if asked.tune and device.type == "cuda":
        result["tuning"] = tune({size: kinds[size] for size in TUNED}, device, min(5, asked.rounds))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
