"""What the Multi-Proxy Wasserstein classifier adds to training and testing, and its Sinkhorn beside POT's and OTT's.

    python benchmarks/multi_proxy.py [--recipe cifar100_resnet110] [--batch 128] [--rounds 9]
        [--device cpu|cuda] [--threads N]

A training step (forward, backward, SGD) and a test pass of the recipe's network with the linear classifier and with
four proxies per class, in turns; then the flow alone, 12,800 problems of 64×4 at ε = 0.1, ours against `ot.batch` and,
where jax and ott-jax are installed, OTT, all with six iterations.
"""

import argparse
import json

import torch
from turns import in_turn, ott

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_solver
from fewshot_cli.profiling.steps import beside
from fewshot_cli.runtime import runs
from fewshot_cli.runtime.device import resolve
from fewshot_cli.runtime.processes import Processes

CLASSES, ITERATIONS, EPSILON = 100, 6, 0.1


def steps(name: str, batch: int, rounds: int, device: torch.device) -> dict[str, float]:
    mpw = load_recipe("cifar100_resnet20_mpw")
    sets = [f"pretrain.batch={batch}"]
    plain = load_recipe(name, sets)
    proxies = plain.pretrain.model_copy(update={"classifier": mpw.pretrain.classifier, "solver": mpw.solver})
    linear, ours = beside([plain, plain.model_copy(update={"pretrain": proxies})], CLASSES, Processes(device), rounds)
    return {f"{kind}_over_linear": ours[kind] / linear[kind] for kind in linear} | {
        f"{kind}_seconds_linear": linear[kind] for kind in linear
    }


def flows(rounds: int, device: torch.device) -> dict[str, float]:
    from ot.batch import solve_batch

    cost = torch.rand(12_800, 64, 4, device=device)
    supply, demand = cost.new_full((12_800, 64), 1 / 64), cost.new_full((12_800, 4), 1 / 4)
    sets = ["solver.tolerance=1e-30", f"solver.max_iterations={ITERATIONS}"]
    ours = build_solver(load_recipe("cifar100_resnet20_mpw", sets).solver)
    same = {"a": supply, "b": demand, "max_iter": ITERATIONS, "tol": 0.0, "grad": "detach"}
    cases = {
        "ours": lambda: ours.solve(cost, supply, demand),
        "pot": lambda: solve_batch(cost, EPSILON, method="sinkhorn", **same),
        "pot_logarithmic": lambda: solve_batch(cost, EPSILON, method="log_sinkhorn", **same),
    }
    fixed = {
        "threshold": 0.0,
        "min_iterations": ITERATIONS,
        "max_iterations": ITERATIONS,
        "inner_iterations": ITERATIONS,
    }
    try:
        for name, logarithmic in (("direct", False), ("logarithmic", True)):
            cases[f"ott_{name}"] = ott((cost, supply, demand), EPSILON, **fixed, lse_mode=logarithmic)
    except ImportError:
        print("OTT is not installed: pip install jax ott-jax to compare with it")
    middle = in_turn(cases, rounds, device)
    return {f"{name}_over_ours": middle[name] / middle["ours"] for name in cases if name != "ours"}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--recipe", default="cifar100_resnet110")
    for name, value in (("batch", 128), ("rounds", 9), ("threads", 0)):
        words.add_argument(f"--{name}", type=int, default=value)
    words.add_argument("--device", default="auto")
    given = words.parse_args()
    device = resolve(given.device)
    if given.threads:
        torch.set_num_threads(given.threads)
    figures = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        **flows(given.rounds, device),
        **steps(given.recipe, given.batch, given.rounds, device),
        "versions": runs.versions(),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
