"""Means and their intervals over episodes."""

import math
from collections.abc import Sequence

INTERVAL = "normal approximation over episodes, 1.96·s/√n"


def mean_ci95(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval, 1.96·s/√n with the population standard deviation, as DeepEMD reports."""
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((v - mean) ** 2 for v in values) / n
    return mean, 1.96 * math.sqrt(variance / n)


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % interval of first − second on the same episodes."""
    return mean_ci95([a - b for a, b in zip(first, second, strict=True)])
