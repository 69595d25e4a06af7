"""What the Multi-Proxy Wasserstein classifier adds to training and testing, and its Sinkhorn beside POT's.

    python benchmarks/multi_proxy.py [--depth 110] [--batch 128] [--rounds 9] [--device cpu|cuda] [--threads N]

ResNet-`depth` at 32×32 with 100 classes: a training step (forward, backward, SGD) and a test pass with the linear classifier and with
four proxies a class, in turns; then the flow alone, 12,800 problems of 64×4 at ε = 0.1, ours against `ot.batch`, with as many
iterations of each.
"""

import argparse
import json
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F

from fewshot_cli import build, recipe, registry, runs
from fewshot_cli.device import resolve
from fewshot_cli.recipe import default_part
from fewshot_cli.schema import OptimizerSpec
from fewshot_cli.training.loop import make_optimizer


def timed(work, device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begin = perf_counter()
    work()
    wait()
    return perf_counter() - begin


def steps(depth: int, batch: int, rounds: int, device: torch.device) -> dict[str, float]:
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 100
    solver = recipe.load("cifar100_resnet20_mpw").solver
    cases = {}
    for name in ("linear", "multi_proxy"):
        backbone = registry.part("backbones", "cifar_resnet")
        backbone = backbone(backbone.Options(depth=depth)).to(device, memory_format=torch.channels_last)
        classifier = build.classifier(default_part("classifiers", name), backbone.channels, 100, solver, device)
        optimizer = make_optimizer(torch.nn.ModuleList([backbone, classifier]), OptimizerSpec())

        def train(backbone=backbone, classifier=classifier, optimizer=optimizer) -> None:
            loss = F.cross_entropy(classifier(backbone(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        def test(backbone=backbone, classifier=classifier) -> None:
            with torch.no_grad():
                classifier(backbone(images))

        cases[name] = {"train": train, "test": test}
    seconds = {(name, kind): [] for name in cases for kind in ("train", "test")}
    for turn in range(rounds + 1):
        for (name, kind), own in seconds.items():
            spent = timed(cases[name][kind], device)
            if turn:
                own.append(spent)
    middle = {key: median(own) for key, own in seconds.items()}
    return {f"{kind}_over_linear": middle["multi_proxy", kind] / middle["linear", kind] for kind in ("train", "test")} | {
        f"{kind}_seconds_linear": middle["linear", kind] for kind in ("train", "test")}  # fmt: skip


def flows(rounds: int, device: torch.device) -> dict[str, float]:
    from ot.batch import solve_batch

    cost = torch.rand(12_800, 64, 4, device=device)
    supply, demand = cost.new_full((12_800, 64), 1 / 64), cost.new_full((12_800, 4), 1 / 4)
    ours = build.solver(
        recipe.load("cifar100_resnet20_mpw", ["solver.tolerance=1e-30", "solver.max_iterations=6"]).solver
    )
    cases = {
        "ours": lambda: ours.solve(cost, supply, demand),
        "pot": lambda: solve_batch(cost, 0.1, a=supply, b=demand, max_iter=6, tol=0.0, method="sinkhorn", grad="detach"),
        "pot_logarithmic": lambda: solve_batch(cost, 0.1, a=supply, b=demand, max_iter=6, tol=0.0, method="log_sinkhorn", grad="detach"),
    }  # fmt: skip
    seconds = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, work in cases.items():
            spent = timed(work, device)
            if turn:
                seconds[name].append(spent)
    middle = {name: median(own) for name, own in seconds.items()}
    return {f"{name}_over_ours": middle[name] / middle["ours"] for name in cases if name != "ours"}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in (("depth", 110), ("batch", 128), ("rounds", 9), ("threads", 0)):
        words.add_argument(f"--{name}", type=int, default=value)
    words.add_argument("--device", default="auto")
    given = words.parse_args()
    device = resolve(given.device)
    if given.threads:
        torch.set_num_threads(given.threads)
    found = {"device": str(device), "threads": torch.get_num_threads(), **steps(given.depth, given.batch, given.rounds, device),
             **flows(given.rounds, device), "versions": runs.versions()}  # fmt: skip
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
