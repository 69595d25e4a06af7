"""What warm starts save in the structured fully connected layer: the same fine-tuning with and without them, in turn.

    python benchmarks/sfc_warm.py [--rounds 3] [--shot 5]

5-way, 640 channels, 5×5 maps with class structure, the code's preset (100 passes, batches of 4); prints JSON.
"""

import argparse
import json
import statistics
from time import perf_counter

import torch
from fewshot_cli.heads.sfc import nodes

from fewshot_cli import build, transport
from fewshot_cli.device import keep_freed_memory
from fewshot_cli.recipe import default_part


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--passes", type=int, default=100)
    given = parser.parse_args()
    keep_freed_memory()
    rng = torch.Generator().manual_seed(0)
    classes, common = torch.randn(5, 1, 640, 1, 1, generator=rng), torch.randn(640, 1, 1, generator=rng)
    support = (torch.randn(5, given.shot, 640, 5, 5, generator=rng) + 0.5 * classes + common).relu()[None]
    head = build.head(
        default_part("heads", "sfc", passes=given.passes), 640, default_part("solvers", "network_simplex")
    )
    pictures, labels = nodes(support.transpose(1, 2).flatten(1, 2)), torch.arange(5).repeat(given.shot)
    own = type(head.solver)
    found: dict[str, dict[str, list[float]]] = {
        name: {"total": [], "solver": [], "pivots": []} for name in ("cold", "warm")
    }
    for turn in range(given.rounds + 1):
        for name, seen in found.items():
            own.warm_start = name == "warm"
            with transport.ledger() as book:
                start = perf_counter()
                head.learn(nodes(support.mean(2)), pictures, labels)
                total = perf_counter() - start
            if turn:  # the first is a warm-up
                seen["total"].append(total)
                seen["solver"].append(book.seconds)
                seen["pivots"].append(float(torch.cat(book.iterations).double().mean()))
    result = {name: {k: statistics.median(v) for k, v in seen.items()} for name, seen in found.items()}
    result["problems"] = sum(len(x) for x in book.iterations)
    result |= {f"cold_over_warm_{k}": result["cold"][k] / result["warm"][k] for k in ("total", "solver")}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
