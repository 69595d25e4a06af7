"""Costs whose differences are small beside them, or that span decades: the default solver's time over `ot.emd`'s.

    python benchmarks/wide_costs.py [--sizes 1000] [--rounds 3]

One problem and one thread, in turns; the medians. `value` is ours minus that of `ot.emd`, relative to it: where it is
negative, `ot.emd` stopped above the optimum. Prints JSON.
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np
import ot
import torch
from turns import in_turn

from fewshot_cli import registry


def costs(n: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(n)
    noise = rng.random((n, n))
    yield "uniform", noise
    yield "offset 1e6, noise 1e-6", 1e6 + 1e-6 * noise
    yield "row and column offsets 1e6, noise 1e-6", 1e6 * (rng.random((n, 1)) + rng.random((1, n))) + 1e-6 * noise
    yield "forbidden arcs 1e9", np.where(rng.random((n, n)) < 0.3, 1e9, noise)
    yield "twelve decades", 10.0 ** rng.uniform(-6, 6, (n, n))
    yield "whole numbers to 1000", np.rint(1000 * noise)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cls = registry.solver("network_simplex")
    solver, rows = cls(cls.Options(workers=1)), []
    for n in given.sizes:
        for name, cost in costs(n):
            rng = np.random.default_rng(n + 1)
            masses = [x / x.sum() for x in (rng.random(n) + 0.1, rng.random(n) + 0.1)]
            problem = [torch.from_numpy(x)[None] for x in (cost, *masses)]
            work = {
                "ours": lambda p=problem: solver.solve(*p),
                "theirs": lambda c=cost, w=masses: ot.emd(*w, c, numItermax=10**7),
            }
            seconds, plan, flow = in_turn(work, given.rounds), work["ours"](), work["theirs"]()
            value = float((flow * cost).sum())
            rows.append(
                {
                    "size": n,
                    "costs": name,
                    "ratio": seconds["ours"] / seconds["theirs"],
                    "value": float((plan.flow[0].numpy() * cost).sum()) / value - 1,
                    "converged": bool(plan.converged[0]),
                }
            )
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
