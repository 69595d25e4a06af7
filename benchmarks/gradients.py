"""What each gradient of DeepEMD's loss costs and gives: envelope with prices, flow only, OpenCV's, implicit through
qpth.

    python benchmarks/gradients.py [--side 4] [--way 5] [--query 3] [--channels 64] [--rounds 5]

One episode of maps with class structure, float64, cross-entropy of the 1-shot logits. Each row: the seconds of a
forward pass and of forward and backward together; the cosine of its gradient for the support maps with the envelope's;
and its error along random directions against central differences, relative to their size. Prints JSON.
"""

import argparse
import json
import statistics
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_head
from fewshot_cli.contracts import Head
from fewshot_cli.registry import working_solvers
from fewshot_cli.runtime.device import keep_freed_memory

ROWS = {
    "envelope, network_simplex": ("network_simplex", "full"),
    "envelope, pot": ("pot", "full"),
    "flow only, network_simplex": ("network_simplex", "flow"),
    "flow only, opencv": ("opencv", "flow"),
    "implicit, qpth": ("qpth", "full"),
}
STEP, DIRECTIONS = 1e-5, 12


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("side", 4), ("way", 5), ("query", 3), ("channels", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    keep_freed_memory()
    rng = torch.Generator().manual_seed(0)
    shape = (given.channels, given.side, given.side)
    classes = torch.randn(given.way, *shape, generator=rng, dtype=torch.float64)
    labels = torch.arange(given.way).repeat(given.query)
    noise = torch.randn(len(labels) + given.way, *shape, generator=rng, dtype=torch.float64)
    support = (classes + noise[: given.way]).relu()[None, :, None]
    query = (classes[labels] + noise[given.way :]).relu()[None]

    def loss(head: Head, maps: Tensor) -> Tensor:
        return F.cross_entropy(head(maps, query)[0], labels)

    heads = {
        name: build_head(
            default_part("heads", "emd", gradient=gradient), given.channels, default_part("solvers", solver)
        )
        for name, (solver, gradient) in ROWS.items()
        if solver in working_solvers()
    }
    times, grads = {name: [] for name in heads}, {}
    for turn in range(given.rounds + 1):  # rows in turn; the first round warms up
        for name, head in heads.items():
            if turn and "qpth" in name and times[name]:
                continue  # it takes long enough to be measured once
            maps = support.clone().requires_grad_()
            begin = perf_counter()
            value = loss(head, maps)
            middle = perf_counter()
            (grads[name],) = torch.autograd.grad(value, maps)
            if turn:
                times[name].append((middle - begin, perf_counter() - begin))
    name, truth = next(iter(grads.items()))
    directions = torch.randn(DIRECTIONS, *support.shape, generator=rng, dtype=torch.float64)
    slopes = torch.stack(
        [
            (loss(heads[name], support + STEP * v) - loss(heads[name], support - STEP * v)) / (2 * STEP)
            for v in directions
        ]
    )
    rows = {}
    for name, grad in grads.items():
        forward, both = (statistics.median(column) for column in zip(*times[name], strict=True))
        along = (directions * grad).flatten(1).sum(1)
        rows[name] = {
            "forward_seconds": forward,
            "with_gradient_seconds": both,
            "cosine_with_envelope": float(F.cosine_similarity(grad.flatten(), truth.flatten(), dim=0)),
            "relative_error": float((along - slopes).norm() / slopes.norm()),
        }
    problems = given.way * given.way * given.query
    print(
        json.dumps({"problems": problems, "nodes": given.side**2, "channels": given.channels, "rows": rows}, indent=2)
    )


if __name__ == "__main__":
    main()
