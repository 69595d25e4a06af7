"""What a k-shot episode with the structured fully connected layer costs beside its bare solver time.

    python benchmarks/sfc.py [--episodes 8] [--shot 5] [--side 5] [--channels 640] [--rounds 3] [--threads 2]

5-way, 15 queries per class, the code's preset: 12,500 + 375 transport problems per episode at 5 shots. `flow` is the
default (gradient of the costs with the flow held fixed), `full` the gradient of the node weights too. The bare solver
time is that of the same problems, solved again from nothing in calls of the same sizes; `solver` is what the solver
took inside, where it starts from its last trees. Everything in turn; medians; seconds per episode. Prints JSON.
"""

import argparse
import json
import statistics
from time import perf_counter

import torch
from recorder import Recorder, bare

from fewshot_cli import transport
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_head
from fewshot_cli.contracts import Head
from fewshot_cli.runtime.device import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("episodes", 8), ("shot", 5), ("side", 5), ("channels", 640), ("rounds", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--only-flow", action="store_true", help="leave out the full gradient, which takes much longer")
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    rng = torch.Generator().manual_seed(0)
    shape = (given.channels, given.side, given.side)
    classes = torch.randn(given.episodes, 5, 1, *shape[:1], 1, 1, generator=rng)
    common = torch.randn(given.channels, 1, 1, generator=rng)
    images = (torch.randn(given.episodes, 5, given.shot + 15, *shape, generator=rng) + 0.5 * classes + common).relu()
    support, query = images[:, :, : given.shot], images[:, :, given.shot :].flatten(1, 2)

    def head(gradient: str) -> Head:
        spec = default_part("heads", "sfc", passes=given.passes, gradient=gradient)
        return build_head(
            spec, given.channels, default_part("solvers", "network_simplex", workers=given.threads)
        ).eval()

    @torch.no_grad()
    def run(scored: Head) -> tuple[float, float]:
        with transport.ledger() as ledger:
            begin = perf_counter()
            scored(support, query)
            return perf_counter() - begin, ledger.seconds

    flow = head("flow")
    solver, flow.solver = flow.solver, Recorder(flow.solver)
    run(flow)
    problems, flow.solver = flow.solver.problems, solver

    heads = {"flow": flow} | ({} if given.only_flow else {"full": head("full")})
    seen: dict[str, list[float]] = {name: [] for name in ("bare", *(f"{h}{k}" for h in heads for k in ("", "_solver")))}
    for turn in range(given.rounds + 1):  # the first is a warm-up
        times = {"bare": bare(solver, problems)}
        for name, scored in heads.items():
            times[name], times[f"{name}_solver"] = run(scored)
        for name, seconds in times.items() if turn else ():
            seen[name].append(seconds / given.episodes)
    result = {name: statistics.median(values) for name, values in seen.items()}
    print(
        json.dumps(
            {
                **vars(given),
                "problems_an_episode": sum(len(p[0]) for p in problems) // given.episodes,
                "seconds_an_episode": result,
                "flow_over_bare": result["flow"] / result["bare"],
                **({"full_over_bare": result["full"] / result["bare"]} if "full" in result else {}),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
