"""The network simplex on a GPU: exactness against the CPU, problems per second, an episode, and what else runs there.

    python benchmarks/solvers_gpu.py [--device cuda] [--tiny] [--tune]

Problems are those of `fewshot_cli.profiling.problems`. Device time by events, inputs in rotation, median of the rounds;
the wall clock beside it shows the launch. `--device cpu --tiny` runs the same on a machine without a GPU. Prints JSON.
"""

import argparse
import json
import statistics
from time import perf_counter

import torch

from fewshot_cli import registry
from fewshot_cli.profiling.problems import generated
from fewshot_cli.profiling.solvers import _clock
from fewshot_cli.runtime import runs


def spread(given, batch: int, device) -> list:
    """Three batches of so many problems, repeated where the given ones are fewer."""
    repeat = -(-batch // len(given[0]))
    return [tuple(torch.cat([x.roll(k, 0)] * repeat)[:batch].to(device) for x in given) for k in range(3)]


def rate(solver, given, batch: int, device, rounds: int) -> dict:
    inputs = spread(given, batch, device)
    for problems in inputs:
        solver.solve(*problems)
    on_device = [_clock(device, lambda k=k: solver.solve(*inputs[k % 3])) for k in range(rounds)]
    start = perf_counter()
    for k in range(rounds):
        solver.solve(*inputs[k % 3])
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


def tune(given, device, rounds: int) -> list[dict]:
    """Problems per second for other numbers of registers per lane, with and without machine code for the size."""
    from fewshot_cli.solvers.network_simplex import cuda

    rows, usual = [], (cuda.registers, cuda.KNOWN)
    for known in (cuda.KNOWN, 0):
        for registers in (48, 64, 80, 96, 128):
            cuda.registers, cuda.KNOWN = (lambda n, m, registers=registers: registers), known
            cuda._sizes.clear()
            figures = rate(registry.solver("network_simplex")(), given, 20_000, device, rounds)
            rows.append({"size_known": bool(known), "registers": registers, **figures})
    cuda.registers, cuda.KNOWN = usual
    cuda._sizes.clear()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    device = torch.device(given.device)
    sizes = (
        [(4, 4), (6, 3)]
        if given.tiny
        else [(9, 9), (13, 13), (25, 25), (25, 4), (36, 36), (49, 25), (64, 64), (100, 100)]
    )
    batches = [10] if given.tiny else [375, 10_000, 50_000]
    simplex = registry.solver("network_simplex")()
    kinds = {size: generated(*size, 10 if given.tiny else 375) for size in sizes}
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": runs.versions(),
        "exactness": exactness(simplex, sizes, 10 if given.tiny else 1500, device),
    }
    result["network_simplex"] = [
        {
            "size": f"{n}x{m}",
            **rate(simplex, kinds[n, m], batch if n * m < 4000 else min(batch, 10_000), device, given.rounds),
        }
        for n, m in sizes
        for batch in batches
    ]
    middle = kinds[(4, 4) if given.tiny else (25, 25)]
    result["others"] = []
    for name, batch in (("sinkhorn", batches[0]), ("sinkhorn", batches[-1]), ("pot_sinkhorn", batches[0]), ("qpth", 8)):
        cls = registry.solver(name)
        if cls.unavailable_reason() is None:
            result["others"].append({"solver": name, **rate(cls(), middle, batch, device, 3)})
    if given.tune and device.type == "cuda":
        result["tuning"] = tune(middle, device, given.rounds)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
