"""The integers that the network simplex decides by: masses with equal totals and double-centred costs, by Numba."""

import numpy as np

from fewshot_cli.kernels import vectors
from fewshot_cli.kernels.compile import njit
from fewshot_cli.solvers.network_simplex.tree import BIG, ROW_BITS

COST_BITS, MASS_BITS, PERTURB_BITS = 38, 48, 12  # n + m stays below 2^11 (the tree's INDEX_BITS) and 2^PERTURB_BITS
BLOCK = 32  # rows priced together, told apart by ROW_BITS
NEAR_BITS = 22  # of the costs that the pricing looks at first
PAD = np.int64(1 << 61)  # cost of the columns that fill a row to whole vectors
ALL = ~np.uint64(0)


@njit
def magnitude(source, base, count):
    """A power of two above the largest |value| of source[base:base+count]; 0 when all are zero, inf if one is."""
    top, positive = vectors.splat(np.int64(0)), vectors.splat(np.int64(0x7FFFFFFFFFFFFFFF))
    for t in range(0, count, 8):
        bits = vectors.both(vectors.as_bits(vectors.load_wide(source, base + t)), positive)
        if t + 8 > count:
            bits = vectors.where(ALL << np.uint64(count - t), np.int64(0), bits)
        top = vectors.smax(top, bits)
    largest = vectors.highest(top)
    if largest >> 52 == 2047:
        return np.inf
    return vectors.power_of_two(min((largest >> 52) - 1022, 1023)) if largest else 0.0


@njit
def total(given):
    """The sum of one side's masses."""
    sums = vectors.splat(0.0)
    for t in range(0, len(given), 8):
        sums = vectors.add(sums, vectors.load_first_wide(given, t, len(given) - t))
    return vectors.summed(sums)


@njit
def masses(supply, demand, unit, s, d):
    """Integer masses, at least one unit each, with equal totals and the perturbation."""
    s_sum, s_top = _units(supply, unit, s)
    d_sum, d_top = _units(demand, unit, d)
    # rounding, the caller's float32 as well as ours, left a difference: the heavier side gives it up in proportion
    gap = s_sum - d_sum
    _perturb(s, max(gap, 0), s_sum, s_top, np.int64(1))
    _perturb(d, max(-gap, 0), d_sum, d_top, np.int64(-1))
    s[s_top] -= len(s) + len(d)  # the one node that does not ship a unit but takes them all


@njit
def _units(given, unit, whole):
    """One side's masses as whole units, at least one each; returns their sum and the place of the largest."""
    count = len(given)
    sums, most, one = vectors.splat(np.int64(0)), vectors.splat(np.int64(0)), vectors.splat(np.int64(1))
    for t in range(0, count, 8):
        x = vectors.rounded(vectors.mul(vectors.load_first_wide(given, t, count - t), vectors.splat(unit)))
        x = vectors.keep_first(vectors.smax(x, one), count - t)
        sums, most = vectors.add(sums, x), vectors.smax(most, x)
        vectors.store(whole, t, x)
    largest, top = vectors.splat(vectors.highest(most)), 0
    for t in range(0, count, 8):
        lane = vectors.find(vectors.load(whole, t), largest)
        if lane < 8:
            top = t + lane
            break
    return vectors.summed(sums), top


@njit
def _perturb(whole, gap, all_units, top, more):
    """Remove `gap` from masses in proportion, the remainder from the largest; give each room for the perturbation and
    `more` of it.
    """
    share, extra, one = vectors.splat(gap / all_units), vectors.splat(more), vectors.splat(np.int64(1))
    given = vectors.splat(np.int64(0))
    for t in range(0, len(whole), 8):
        x = vectors.load(whole, t)
        part = vectors.truncated(vectors.mul(vectors.as_floats(x), share))
        part = vectors.keep_first(vectors.smin(part, vectors.sub(x, one)), len(whole) - t)
        given = vectors.add(given, part)
        x = vectors.shifted(vectors.sub(x, part), np.int64(0), np.int64(PERTURB_BITS))
        vectors.store(whole, t, vectors.add(x, extra))
    whole[top] -= (gap - vectors.summed(given)) << PERTURB_BITS


@njit
def _mean(sums, count):
    """The integers next to sums / count, or as good as: any centre will do."""
    return vectors.rounded(vectors.mul(vectors.as_floats(sums), vectors.splat(1.0 / count)))


@njit
def costs(source, base, scale, n, m, stride, c, near_c, row_mean, column_mean):
    """Double-centred integer costs c [n·stride], and near_c: their top bits, each with its row's number in the block.

    Returns how many low bits near_c leaves out. row_mean and column_mean are scratch.
    """
    last, pad = (m - 1) & ~7, ALL << np.uint64(((m - 1) & 7) + 1)
    for t in range(0, stride, 8):
        vectors.store(column_mean, t, vectors.splat(np.int64(0)))
    factor = vectors.splat(scale)
    for i in range(n):
        sums = vectors.splat(np.int64(0))
        for t in range(0, m, 8):
            x = vectors.rounded(vectors.mul(vectors.load_wide(source, base + i * m + t), factor))
            if t == last:
                x = vectors.where(pad, np.int64(0), x)
            sums = vectors.add(sums, x)
            vectors.store(column_mean, t, vectors.add(vectors.load(column_mean, t), x))
        row_mean[i] = vectors.summed(sums)
    sums = vectors.splat(np.int64(0))
    for t in range(0, m, 8):
        mean = _mean(vectors.load(column_mean, t), n)
        sums = vectors.add(sums, mean)
        vectors.store(column_mean, t, mean)
    grand = vectors.splat(vectors.summed(sums) // m)
    for t in range(0, n, 8):
        vectors.store(row_mean, t, vectors.sub(_mean(vectors.load(row_mean, t), m), grand))
    seen = vectors.splat(np.int64(0))
    for i in range(n):
        mean = vectors.splat(row_mean[i])
        for t in range(0, m, 8):
            x = vectors.rounded(vectors.mul(vectors.load_wide(source, base + i * m + t), factor))
            x = vectors.sub(vectors.sub(x, mean), vectors.load(column_mean, t))
            if t == last:
                x = vectors.where(pad, np.int64(0), x)
            seen = vectors.either(seen, vectors.magnitude(x))
            vectors.store(c, i * stride + t, x)
    drop = max(vectors.bit_length(vectors.union(seen)) - NEAR_BITS, 0)
    for i in range(n):
        number = vectors.splat(np.int64(i & (BLOCK - 1)))
        for t in range(0, m, 8):
            x = vectors.load(c, i * stride + t)
            near = vectors.either(vectors.shifted(x, drop, ROW_BITS), number)
            if t == last:
                near = vectors.where(pad, np.int64(BIG), near)
                vectors.store(c, i * stride + t, vectors.where(pad, PAD, x))
            vectors.store(near_c, i * stride + t, near)
    return drop
