"""Exact solvers side by side: problems per second, ratios, and how exact, on DeepEMD's own kind of problems.

    python benchmarks/solvers.py [--sizes 25x25,100x100,…] [--rounds 7] [--check 10000]

Cross-reference weights and centred cosine costs of 640-channel maps with class structure, 375 problems to an episode.
Contenders take turns in every round, on one thread unless said, and medians are compared. Also measured: the gradient,
an episode from features to logits, and batched Sinkhorn against POT's (and OTT's, where it is installed). Prints a
table and one JSON object.
"""

import argparse
import json
from contextlib import suppress

import fewshot_cli  # isort: skip - before torch, whose threads it keeps from spinning

import torch
from turns import in_turn, ott

from fewshot_cli import registry, transport
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_head
from fewshot_cli.kernels.certificate import certify
from fewshot_cli.profiling.problems import generated
from fewshot_cli.runtime import runs
from fewshot_cli.runtime.device import keep_freed_memory

SIZES = "25x25,100x100,49x25,9x9,13x13,25x4,64x4"


def solver(name: str, workers: int | None = None, **options):
    cls = registry.solver(name)
    return cls(cls.Options(**options, **({} if workers is None else {"workers": workers})))


def speed(n: int, m: int, rounds: int) -> dict:
    given = generated(n, m, 375 if n * m < 4000 else 60)
    contenders = {
        "cv2.EMD": solver("opencv", 1),
        "ot.emd": solver("pot", 1),
        "network_simplex": solver("network_simplex", 1),
        "network_simplex, 2 threads": solver("network_simplex", 2),
    }
    seconds = in_turn({name: lambda s=s: s.solve(*given) for name, s in contenders.items()}, rounds)
    rate = {name: len(given[0]) / t for name, t in seconds.items()}
    return {
        "size": f"{n}x{m}",
        "problems_per_second": {k: round(v) for k, v in rate.items()},
        "one_thread_over_cv2": rate["network_simplex"] / rate["cv2.EMD"],
        "two_threads_over_cv2": rate["network_simplex, 2 threads"] / rate["cv2.EMD"],
        "one_thread_over_ot": rate["network_simplex"] / rate["ot.emd"],
    }


def certificate(rounds: int, n: int = 25) -> float:
    """Time of the proof that an episode's plans are optimal, over that of the solver, one thread."""
    given, ours = generated(n, n, 375), solver("network_simplex", 1)
    plan = ours.solve(*given)
    times = in_turn(
        {
            "solve": lambda: ours.solve(*given),
            "certify": lambda: certify(*given, plan, ours.tolerance, 1),
        },
        9 * rounds,
    )
    return times["certify"] / times["solve"]


def gradient(rounds: int) -> float:
    """Forward plus full gradient over forward alone, 25×25, one thread."""
    given, ours = generated(25, 25), solver("network_simplex", 1)

    def forward():
        with torch.no_grad():
            transport.value(ours, *given)

    def both():
        leaves = [x.detach().requires_grad_() for x in given]
        transport.value(ours, *leaves).sum().backward()

    seconds = in_turn({"forward": forward, "both": both}, 4 * rounds)
    return seconds["both"] / seconds["forward"]


def public(rounds: int) -> list[dict]:
    """`fewshot_cli.emd` without and with its full gradient over the proven solve below it, 25×25, one thread."""
    ours, rows = fewshot_cli.solver("network_simplex", workers=1), []
    for count in (20, 375, 3_000, 30_000):
        given = generated(25, 25, count)

        def forward(given=given):
            with torch.no_grad():
                fewshot_cli.emd(*given, solver=ours)

        def both(given=given):
            leaves = [x.detach().requires_grad_() for x in given]
            fewshot_cli.emd(*leaves, solver=ours).sum().backward()

        calls = {"solve": lambda given=given: transport.solve(ours, *given), "emd": forward, "emd + backward": both}
        seconds = in_turn(calls, max(3, 4 * rounds * 375 // max(375, count)))
        rows.append(
            {"problems": count, **{f"{name}_over_solve": seconds[name] / seconds["solve"] for name in list(calls)[1:]}}
        )
    return rows


def episode(rounds: int) -> dict[str, float]:
    """Milliseconds of one 5-way 1-shot episode with 75 queries, 640 channels, 5×5 maps, from features to logits."""
    rng = torch.Generator().manual_seed(0)
    support, query = (torch.randn(1, *k, 640, 5, 5, generator=rng).relu() for k in ((5, 1), (75,)))
    head = build_head(default_part("heads", "emd"), 640, default_part("solvers", "network_simplex"))
    milliseconds = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        head.solver = solver("network_simplex", threads)
        with torch.no_grad():
            milliseconds[f"{threads} threads"] = 1e3 * in_turn({"": lambda: head(support, query)}, 8 * rounds)[""]
    torch.set_num_threads(1)
    return milliseconds


def sinkhorn(rounds: int) -> list[dict]:
    """Our batched Sinkhorn against others at the same regularisation and stopping rule, masses of one, 25×25."""
    cost, supply, demand = generated(25, 25)
    given = (cost, supply / supply.sum(1, keepdim=True), demand / demand.sum(1, keepdim=True))
    rows = []
    for epsilon in (0.1, 0.05, 0.01):
        same = {"regularisation": epsilon, "tolerance": 1e-5, "max_iterations": 10_000}
        ours, pot = solver("sinkhorn", **same), solver("pot_sinkhorn", **same)
        calls = {"sinkhorn": lambda ours=ours: ours.solve(*given), "POT": lambda pot=pot: pot.solve(*given)}
        with suppress(ImportError):
            calls["OTT"] = ott(
                given, epsilon, threshold=1e-5, norm_error=2, inner_iterations=10, max_iterations=10_000, lse_mode=True
            )
        seconds = in_turn(calls, rounds)
        rows.append(
            {
                "regularisation": epsilon,
                "milliseconds": {k: round(1e3 * v, 2) for k, v in seconds.items()},
                **{f"over_{k}": seconds[k] / seconds["sinkhorn"] for k in seconds if k != "sinkhorn"},
            }
        )
    return rows


def exactness(count: int) -> dict:
    """Worst duality gap and marginal error, relative to mass times largest cost, half the problems degenerate."""
    rng, worst, marginal, done = torch.Generator().manual_seed(1), 0.0, 0.0, 0
    ours = solver("network_simplex", 0)
    shapes = [(25, 25), (16, 16), (9, 13), (40, 3), (1, 7), (25, 4)]
    while done < count:
        n, m = shapes[done // 500 % len(shapes)]
        cost = torch.rand(250, n, m, generator=rng, dtype=torch.float64)
        supply, demand = (torch.rand(250, k, generator=rng, dtype=torch.float64) + 1e-3 for k in (n, m))
        for degenerate in (False, True):
            if degenerate:
                cost, supply, demand = (cost * 4).round(), torch.ones_like(supply), (demand * 3).ceil()
            demand = demand * (supply.sum(1) / demand.sum(1))[:, None]
            plan = transport.solve(ours, cost, supply, demand)
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
    keep_freed_memory()  # as every verb of fsl does
    rows = [speed(*map(int, size.split("x")), given.rounds) for size in given.sizes.split(",")]
    for row in rows:
        print(
            f"{row['size']:>8}  1 thread / cv2.EMD {row['one_thread_over_cv2']:5.1f}×  2 threads / cv2.EMD "
            f"{row['two_threads_over_cv2']:5.1f}×  1 thread / ot.emd {row['one_thread_over_ot']:5.1f}×"
        )
    result = {
        "speed": rows,
        "certificate_over_solver": certificate(given.rounds),
        "gradient_over_forward": gradient(given.rounds),
        "public": public(given.rounds),
        "sinkhorn": sinkhorn(given.rounds),
        "episode_milliseconds": episode(given.rounds),
        "exactness": exactness(given.check),
        "versions": runs.versions(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
