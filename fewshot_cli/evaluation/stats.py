"""Means and their intervals over episodes."""

import math
from collections.abc import Sequence

INTERVAL = "normal approximation over episodes, 1.96·s/√n"
INTERVAL_QUERIES = "Wilson's score interval over queries, the distance to its farther end"
INTERVAL_PAIRED_QUERIES = "Student's t over the queries' differences"
INTERVAL_IMAGES = "Wilson's score interval over images, the distance to its farther end"


def mean_ci95(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of its 95 % interval, 1.96·s/√n with the population standard deviation, as DeepEMD
    reports; None for a single value, which says nothing of how far others lie.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    variance = math.fsum((v - mean) ** 2 for v in values) / n
    return mean, 1.96 * math.sqrt(variance / n)


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of the 95 % interval (Student's t) of first − second on the same episodes; None where so few
    say nothing of how far others lie.
    """
    delta = [a - b for a, b in zip(first, second, strict=True)]
    return math.fsum(delta) / len(delta), half_width(delta)


def half_width(delta: Sequence[float], level: float = 0.05) -> float | None:
    """Half the width of the interval that holds the mean of such differences with 1 − `level`, by Student's t.

    Differences that are all the same tell by their number alone: None where as many coins would fall alike by chance.
    """
    from scipy.special import stdtrit  # here, since importing it takes long

    n, error = len(delta), standard_error(delta)
    if n < 2 or (error == 0 and alike_by_chance(n) > level):
        return None
    return float(stdtrit(n - 1, 1 - level / 2)) * error


def standard_error(delta: Sequence[float]) -> float:
    """Of the mean of two or more differences; zero where they do not vary but for rounding, and for a single one."""
    n = len(delta)
    mean = math.fsum(delta) / n
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in delta) / max(1, n - 1))
    return 0.0 if spread <= 1e-12 * max(map(abs, delta)) else spread / math.sqrt(n)


def alike_by_chance(n: int) -> float:
    """How probable it is that n differences have one sign although either is as likely: the sign test's p-value."""
    return 2.0 ** (1 - n)


def share_ends(correct: int, count: int) -> tuple[float, float]:
    """Both ends of Wilson's 95 % interval of a share, in per cent. It holds for few images and near 100 %, and is not
    centred on the share.
    """
    _, centre, half = _wilson(correct, count)
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def share_ci95(correct: int, count: int) -> tuple[float, float]:
    """Per cent correct and the distance to the farther end of Wilson's 95 % interval, which is not centred on it.

    It holds for few images and near 100 %.
    """
    share, centre, half = _wilson(correct, count)
    return 100 * share, 100 * (half + abs(centre - share))


def _wilson(correct: int, count: int) -> tuple[float, float, float]:
    """A share, and the centre and half-width of Wilson's 95 % interval of it."""
    share, z2 = correct / count, 1.96**2
    half = 1.96 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return share, (share + z2 / (2 * count)) / (1 + z2 / count), half
