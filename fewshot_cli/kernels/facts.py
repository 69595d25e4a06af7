"""What decides whether transport problems can be solved: their largest and smallest numbers, read in one pass."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.kernels import nvrtc, proof
from fewshot_cli.kernels.threads import over_batch

LEAST = 1024  # problems worth a thread


class Facts(NamedTuple):
    """Of a whole batch: whether every number is finite, the `largest` |cost|, the `lightest` and the `heaviest` total
    supply of a problem, the `least` mass of a node, and by how much the totals of a problem differ beyond the tolerance
    at worst (below zero: nowhere). Infinite where a total is.
    """

    finite: bool
    largest: float
    lightest: float
    heaviest: float
    least: float
    excess: float


def facts_of(cost: Tensor, supply: Tensor, demand: Tensor, tolerance: float, workers: int = 0) -> Facts:
    """The facts of cost [B,n,m], supply [B,n] and demand [B,m] of one type, none of them empty.

    `tolerance` is how far total demand may be from total supply, relative to the larger. `workers`: threads on the CPU,
    0 for every core. A GPU is waited for once.
    """
    given = cost.detach(), supply.detach(), demand.detach()
    if cost.device.type == "cuda" and nvrtc.works():
        return worst(proof.facts(*given, tolerance).tolist())
    if cost.device.type == "cpu":
        try:
            from fewshot_cli.kernels.bounds import facts_range
        except ImportError:  # without Numba
            return by_tensors(*given, tolerance)
        arrays, parts = [np.ascontiguousarray(x.numpy()) for x in given], []
        over_batch(
            lambda begin, end: parts.append(facts_range(*arrays, tolerance, begin, end)), len(cost), workers, LEAST
        )
        poison, largest, lightest, heaviest, least, excess = zip(*parts, strict=True)
        return Facts(not any(poison), max(largest), min(lightest), max(heaviest), min(least), max(excess))
    return by_tensors(*given, tolerance)


def worst(numbers: Sequence[float]) -> Facts:
    """The facts of a batch, or of several, by what `proof.facts` found of them."""
    bad, largest, light, heaviest, low, excess = numbers
    return Facts(not bad, largest, -light, heaviest, -low, excess)


def by_tensors(cost: Tensor, supply: Tensor, demand: Tensor, tolerance: float) -> Facts:
    """The same in whole tensors, for any device."""
    total, other = supply.sum(1), demand.sum(1)
    excess = (total - other).abs() - tolerance * torch.maximum(total, other)
    low, high = torch.aminmax(cost)
    least = torch.minimum(supply.amin(), demand.amin())
    read = torch.stack([low, high, total.amin(), total.amax(), least, excess.amax()]).tolist()
    low, high, lightest, heaviest, least, excess = read
    return Facts(all(map(math.isfinite, read)), max(-low, high), lightest, heaviest, least, excess)
