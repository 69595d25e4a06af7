"""Exact solvers side by side: problems a second, ratios, and how exact, on DeepEMD's own kind of problems.

    python benchmarks/solvers.py [--sizes 25x25,100x100,…] [--rounds 7] [--check 10000]

Problems are cross-reference weights and centred cosine costs of 640-channel maps with class structure, 375 to an episode.
One thread each (and two for network_simplex), rounds interleaved, medians compared. Prints a table and one JSON object.
"""

import argparse
import json
import statistics
from time import perf_counter

import torch

from fewshot_cli import build, registry, runs, transport
from fewshot_cli.recipe import default_part

SIZES = "25x25,100x100,49x25,9x9,13x13,25x4,64x4"


def problems(n: int, m: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """The problems of one five-way one-shot episode as the emd head poses them, n query and m class nodes."""
    rng = torch.Generator().manual_seed(seed)
    common, classes = torch.randn(1, 640, 1, 1, generator=rng), torch.randn(5, 640, 1, 1, generator=rng)

    def maps(per_class: int, positions: int) -> torch.Tensor:
        own = torch.randn(5, per_class, 640, 1, positions, generator=rng)
        return (own + 0.5 * classes[:, None] + common).relu()

    class Keep:
        gradient = "envelope"

        def solve(self, *problem):
            self.problem = problem
            return registry.part("solvers", "network_simplex")().solve(*problem)

    head = build.head(default_part("heads", "emd"), 640, default_part("solvers", "network_simplex"))
    head.solver = Keep()
    head(maps(1, m)[None], maps(15, n).flatten(0, 1)[None])
    cost, supply, demand = head.solver.problem
    keep = 375 if n * m < 4000 else 60
    return tuple(x[:keep].contiguous() for x in (cost, supply, demand))


def solver(name: str, workers: int):
    cls = registry.part("solvers", name)
    return cls(cls.Options(workers=workers))


def speed(n: int, m: int, rounds: int) -> dict:
    given = problems(n, m)
    contenders = {"cv2.EMD": solver("opencv", 1), "ot.emd": solver("pot", 1), "network_simplex": solver("network_simplex", 1),
                  "network_simplex, 2 threads": solver("network_simplex", 2)}  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, contender in contenders.items():
            start = perf_counter()
            contender.solve(*given)
            times[name].append(perf_counter() - start)
    rate = {name: len(given[0]) / statistics.median(seen[1:]) for name, seen in times.items()}  # the first is a warm-up
    return {"size": f"{n}x{m}", "problems_per_second": {k: round(v) for k, v in rate.items()},
            "one_thread_over_cv2": rate["network_simplex"] / rate["cv2.EMD"],
            "two_threads_over_cv2": rate["network_simplex, 2 threads"] / rate["cv2.EMD"],
            "one_thread_over_ot": rate["network_simplex"] / rate["ot.emd"]}  # fmt: skip


def exactness(count: int) -> dict:
    """Worst duality gap and marginal error, relative to mass times largest cost, half the problems degenerate."""
    rng, worst, marginal, done = torch.Generator().manual_seed(1), 0.0, 0.0, 0
    own = solver("network_simplex", 0)
    shapes = [(25, 25), (16, 16), (9, 13), (40, 3), (1, 7), (25, 4)]
    while done < count:
        n, m = shapes[done // 500 % len(shapes)]
        cost = torch.rand(250, n, m, generator=rng, dtype=torch.float64)
        supply, demand = (torch.rand(250, k, generator=rng, dtype=torch.float64) + 1e-3 for k in (n, m))
        for degenerate in (False, True):
            if degenerate:
                cost, supply, demand = (cost * 4).round(), torch.ones_like(supply), (demand * 3).ceil()
            demand = demand * (supply.sum(1) / demand.sum(1))[:, None]
            plan = transport.solve(own, cost, supply, demand)
            scale = supply.sum(1) * cost.abs().amax((1, 2)).clamp(min=1e-9)
            primal = (cost * plan.flow).sum((1, 2))
            dual = (plan.supply_price * supply).sum(1) + (plan.demand_price * demand).sum(1)
            slack = (cost - plan.supply_price[:, :, None] - plan.demand_price[:, None]).amin((1, 2))
            worst = max(worst, float(((primal - dual).abs() / scale).max()), float((-slack).max()))
            error = (plan.flow.sum(2) - supply).abs().amax(1) / supply.sum(1)
            marginal = max(marginal, float(error.max()))
            done += 250
    return {"problems": done, "relative_duality_gap": worst, "relative_marginal_error": marginal}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--check", type=int, default=10_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [speed(*map(int, size.split("x")), given.rounds) for size in given.sizes.split(",")]
    for row in rows:
        print(f"{row['size']:>8}  1 thread / cv2.EMD {row['one_thread_over_cv2']:5.1f}×  2 threads / cv2.EMD "
              f"{row['two_threads_over_cv2']:5.1f}×  1 thread / ot.emd {row['one_thread_over_ot']:5.1f}×")  # fmt: skip
    print(json.dumps({"speed": rows, "exactness": exactness(given.check), "versions": runs.versions()}, indent=2))


if __name__ == "__main__":
    main()
