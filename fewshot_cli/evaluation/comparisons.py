"""Many evaluations on the same episodes beside each other: differences, who is as good as the best, and ranks.

Everything is paired by episode. Student's t stands behind intervals and tests, so that few episodes are not taken for
many; where several differences are read together, their p-values are Holm's (Scand. J. Statist. 6, 1979), and their
intervals Bonferroni's, which hold all at once with 95 % (Holm's own steps give no such intervals).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from scipy import stats

from fewshot_cli.evaluation.stats import alike_by_chance, half_width, standard_error

Values = Sequence[float]
Standing = Literal["best", "tied"]
LEVEL = 0.05
CORRECTED = (
    "differences: paired over episodes, their intervals hold all at once with 95 % (Bonferroni, Student's t), p by Holm"
)


@dataclass(frozen=True)
class Difference:
    """A mean difference, the half-width of its simultaneous 95 % interval, and its p-value, both corrected; None where
    a single episode says nothing of either.
    """

    mean: float
    ci95: float | None
    p: float | None


def differences(pairs: Sequence[tuple[Values, Values]]) -> list[Difference]:
    """First − second of every pair, corrected for all of them together. Raises `ValueError` for unequal lengths."""
    deltas = [np.subtract(first, second).tolist() for first, second in pairs]
    adjusted = holm([_p_value(delta) for delta in deltas])
    return [
        Difference(math.fsum(delta) / len(delta), half_width(delta, LEVEL / len(deltas)), p)
        for delta, p in zip(deltas, adjusted, strict=True)
    ]


def _p_value(delta: Values) -> float | None:
    """Of the paired t-test; of the sign test where all differ by the same, 1 where nothing differs."""
    if len(delta) < 2:
        return None
    mean, error = math.fsum(delta) / len(delta), standard_error(delta)
    if error == 0:
        return alike_by_chance(len(delta)) if mean else 1.0
    return float(2 * stats.t.sf(abs(mean) / error, len(delta) - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values: each is the smallest family-wise level at which its hypothesis falls. None stays None
    and does not count.
    """
    given = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, i) in enumerate(given):
        least = max(least, min(1.0, (len(given) - rank) * p))
        adjusted[i] = least
    return adjusted


def standings(rows: Sequence[Values | None]) -> list[Standing | None]:
    """The row with the highest mean is `best`; `tied` are those that do not differ significantly from it, paired and by
    Holm at 5 % over all pairs, since the best is known from the same values. None for the others, and for a row without
    values.
    """
    out: list[Standing | None] = [None] * len(rows)
    means = {i: math.fsum(values) / len(values) for i, values in enumerate(rows) if values}
    if not means:
        return out
    top = max(means, key=lambda i: means[i])
    pairs = list(combinations(means, 2))
    adjusted = holm([_p_value(np.subtract(rows[i] or (), rows[j] or ()).tolist()) for i, j in pairs])
    for (i, j), p in zip(pairs, adjusted, strict=True):
        if top in (i, j) and (p is None or p > LEVEL):
            out[i if j == top else j] = "tied"
    out[top] = "best"
    return out


def add_standings(records: Sequence[dict[str, Any]], rows: Sequence[Values | None]) -> None:
    """Give records of one task their `standing`, from their values on the same episodes; a single row has none."""
    if sum(bool(values) for values in rows) > 1:
        for record, standing in zip(records, standings(rows), strict=True):
            record.update({"standing": standing} if standing else {})


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over blocks (1 is best), Friedman's test that all are alike, and the critical difference.

    Two mean ranks that lie nearer than `critical_difference` do not differ significantly (Nemenyi's test at 5 %;
    Demšar, JMLR 7, 2006). `statistic` and `p` are None for two methods, whose paired difference says the same.
    """

    mean: list[float]
    blocks: int
    statistic: float | None
    p: float | None
    critical_difference: float


def ranks(scores: Sequence[Values]) -> Ranks:
    """Ranks of methods by their scores, a row for each method and a column for each block; equal ones share theirs."""
    table = np.asarray(scores, float)
    count, blocks = table.shape
    mean = stats.rankdata(-table, axis=0).mean(1).tolist()
    statistic = p = None
    if count > 2:
        alike = bool((table == table[0]).all())  # all ranks are shared, and Friedman's statistic is 0/0
        statistic, p = (0.0, 1.0) if alike else map(float, stats.friedmanchisquare(*table))
    quantile = float(stats.studentized_range.isf(LEVEL, count, np.inf)) / math.sqrt(2)
    return Ranks(mean, blocks, statistic, p, quantile * math.sqrt(count * (count + 1) / (6 * blocks)))


def cliques(mean: Values, critical_difference: float) -> list[tuple[float, float]]:
    """The ranges of mean ranks within which no two of at least two methods differ significantly, the widest only."""
    found: list[tuple[float, float]] = []
    for low in sorted(set(mean)):
        inside = [rank for rank in mean if 0 <= rank - low < critical_difference]
        if len(inside) > 1 and not any(a <= low and max(inside) <= b for a, b in found):
            found.append((low, max(inside)))
    return found
