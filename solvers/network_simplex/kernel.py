"""The primal network simplex for dense transport problems, compiled by Numba.

Exact arithmetic, so that termination needs no tolerance: costs become integers of 2^-38 of the largest, masses integers
of 2^-48 of the total. Every mass is then perturbed by one part in `PERTURB` (each node but one ships one extra unit),
which makes every basic flow positive: no degenerate pivot exists, so the objective falls with each one and no basis
returns (Orden 1956; the strongly feasible trees of Cunningham 1976 are its combinatorial form). The perturbation is
rounded away at the end.

The start is the matrix-minimum rule on double-centred costs. Pricing looks at 27 bits of them, 16 to a vector, and
falls back on all bits where these see nothing; column prices are kept negated, so that a subtree's prices shift
together.
"""

import numpy as np

from fewshot_cli.kernels import vectors
from fewshot_cli.kernels.compile import njit
from fewshot_cli.solvers.network_simplex.tree import (
    BIG,
    NODE,
    ROW_BITS,
    exact_prices,
    first_prices,
    near,
    pivot,
    restart,
    start,
)

COST_BITS, MASS_BITS, PERTURB_BITS = 38, 48, 12  # n + m stays below 2^11 (the tree's INDEX_BITS) and 2^PERTURB_BITS
BLOCK = 32  # rows priced together, told apart by ROW_BITS
NEAR_BITS = 22  # of the costs that the pricing looks at first
NEGATIVE = np.int32(-3 << 5)  # less than that is negative in all bits, whatever was cut off
TRIES, FEW = 3, 16
NOTHING = 4  # units of mass and less are rounding, which would go over any arc, however dear
ROUNDS = 64  # of integers for one problem
ROOM = 1024.0  # how far above the size of what is negative reduced costs are told apart
PAD = np.int64(1 << 61)  # cost of the columns that fill a row to whole vectors
ALL = ~np.uint64(0)


@njit
def _lined(array):
    """An array from where a line of the cache begins: a vector across two takes twice as long to read."""
    return array[vectors.to_line(array) :]


@njit
def _magnitude(source, base, count):
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
def _total(masses):
    """The sum of one side's masses."""
    sums = vectors.splat(0.0)
    for t in range(0, len(masses), 8):
        sums = vectors.add(sums, vectors.load_first_wide(masses, t, len(masses) - t))
    return vectors.summed(sums)


@njit
def _masses(supply, demand, unit, s, d):
    """Integer masses, at least one unit each, with equal totals and the perturbation."""
    s_sum, s_top = _units(supply, unit, s)
    d_sum, d_top = _units(demand, unit, d)
    # rounding, the caller's float32 as well as ours, left a difference: the heavier side gives it up in proportion
    gap = s_sum - d_sum
    _perturb(s, max(gap, 0), s_sum, s_top, np.int64(1))
    _perturb(d, max(-gap, 0), d_sum, d_top, np.int64(-1))
    s[s_top] -= len(s) + len(d)  # the one node that does not ship a unit but takes them all


@njit
def _units(given, unit, masses):
    """One side's masses as whole units, at least one each; returns their sum and the place of the largest."""
    count = len(given)
    sums, most, one = vectors.splat(np.int64(0)), vectors.splat(np.int64(0)), vectors.splat(np.int64(1))
    for t in range(0, count, 8):
        x = vectors.rounded(vectors.mul(vectors.load_first_wide(given, t, count - t), vectors.splat(unit)))
        x = vectors.keep_first(vectors.smax(x, one), count - t)
        sums, most = vectors.add(sums, x), vectors.smax(most, x)
        vectors.store(masses, t, x)
    largest, top = vectors.splat(vectors.highest(most)), 0
    for t in range(0, count, 8):
        lane = vectors.find(vectors.load(masses, t), largest)
        if lane < 8:
            top = t + lane
            break
    return vectors.summed(sums), top


@njit
def _perturb(masses, gap, total, top, more):
    """Remove `gap` from masses in proportion, the remainder from the largest, and perturb them by `more`."""
    share, extra, one = vectors.splat(gap / total), vectors.splat(more), vectors.splat(np.int64(1))
    given = vectors.splat(np.int64(0))
    for t in range(0, len(masses), 8):
        x = vectors.load(masses, t)
        part = vectors.truncated(vectors.mul(vectors.as_floats(x), share))
        part = vectors.keep_first(vectors.smin(part, vectors.sub(x, one)), len(masses) - t)
        given = vectors.add(given, part)
        x = vectors.shifted(vectors.sub(x, part), np.int64(0), np.int64(PERTURB_BITS))
        vectors.store(masses, t, vectors.add(x, extra))
    masses[top] -= (gap - vectors.summed(given)) << PERTURB_BITS


@njit
def _mean(sums, count):
    """The integers next to sums / count."""
    return vectors.rounded(vectors.mul(vectors.as_floats(sums), vectors.splat(1.0 / count)))


@njit
def _integers(source, base, scale, n, m, stride, c, near_c, row_mean, column_mean):
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


@njit
def _candidates(near_c, stride, n, near_price, first):
    """The most negative reduced costs, to `NEAR_BITS`, in the first block of rows from `first` that has one: a lane
    holds the least of every sixteenth column, with its row in the block, and where its tile of columns begins.

    Returns these two vectors, the least of all, which is not below `NEGATIVE` where no block has one, the block's first
    row, and the row to look at next time.
    """
    seen = 0
    while True:
        begin, stop = first, min(first + BLOCK, n)
        least, tile = vectors.splat(np.int32(2147483647)), vectors.splat(np.int32(0))
        for t in range(0, stride, 16):
            best = vectors.splat(np.int32(2147483647))
            for i in range(first, stop):
                best = vectors.smin(
                    best, vectors.sub(vectors.load(near_c, i * stride + t), vectors.splat(near_price[i]))
                )
            best = vectors.add(best, vectors.load(near_price, n + t))
            tile = vectors.where_less(best, least, np.int32(t), tile)
            least = vectors.smin(best, least)
        here, seen = vectors.lowest(least), seen + stop - first
        first = stop if stop < n else 0
        if here < NEGATIVE or seen >= n:
            return least, tile, here, begin, first


@njit
def _entering_exactly(c, stride, n, price, first):
    """The same in all bits: the most negative reduced cost of the first `BLOCK` rows after one that has any."""
    least, row, seen = np.int64(0), -1, 0
    for k in range(n):
        i = first + k if first + k < n else first + k - n
        best, row_price = vectors.splat(np.int64(0)), vectors.splat(price[i])
        for t in range(0, stride, 8):
            reduced = vectors.sub(vectors.add(vectors.load(c, i * stride + t), vectors.load(price, n + t)), row_price)
            best = vectors.smin(best, reduced)
        here = vectors.lowest(best)
        if here < least:
            least, row = here, i
        seen += row >= 0
        if seen == BLOCK:
            break
    if row >= 0:
        for t in range(0, stride, 8):
            reduced = vectors.sub(
                vectors.add(vectors.load(c, row * stride + t), vectors.load(price, n + t)), vectors.splat(price[row])
            )
            lane = vectors.find(reduced, vectors.splat(least))
            if lane < 8:
                return row, t + lane
    return -1, -1


@njit
def _least(source, base, n, m, price, tolerance):
    """The least reduced cost, or −tolerance when none is below that."""
    pad = ALL << np.uint64(((m - 1) & 7) + 1)
    signs = vectors.splat(np.int64(0))
    for i in range(n):
        row_price = vectors.splat(price[i] - tolerance)
        for t in range(0, m, 8):
            cell = vectors.load_wide(source, base + i * m + t)
            bits = vectors.as_bits(vectors.sub(vectors.add(cell, vectors.load(price, n + t)), row_price))
            if t + 8 >= m:
                bits = vectors.where(pad, np.int64(0), bits)
            signs = vectors.either(signs, bits)
    low = -tolerance
    if vectors.union(signs) < 0:
        for i in range(n):
            for j in range(m):
                low = min(low, source[base + i * m + j] - price[i] + price[n + j])
    return low


@njit
def _centred(source, base, n, m, price, copied):
    """Write the costs less each row's and then each column's least to copied [n·m]; those go to price as the prices of
    an empty tree. Costs that differ little are subtracted without rounding.
    """
    for i in range(n):
        low = source[base + i * m]
        for j in range(1, m):
            low = min(low, source[base + i * m + j])
        price[i] = low
        for j in range(m):
            copied[i * m + j] = source[base + i * m + j] - low
    for j in range(m):
        low = copied[j]
        for i in range(1, n):
            low = min(low, copied[i * m + j])
        price[n + j] = -low
        for i in range(n):
            copied[i * m + j] -= low


@njit
def _reduced(source, base, n, m, stride, exact, root, parent, cap, c, near_c):
    """Reduced costs to the exact prices as integers of 2^-COST_BITS of `cap`, those above it cut off, in c and near_c;
    arcs of the tree cost nothing. Returns how many low bits near_c leaves out.
    """
    scale, drop = 2.0**COST_BITS / cap, np.int64(COST_BITS - NEAR_BITS)
    for i in range(n):
        for j in range(m):
            reduced = source[base + i * m + j] - exact[i] + exact[n + j]
            c[i * stride + j] = np.int64(np.rint(min(reduced, cap) * scale))
    for x in range(n + m):
        if x != root:
            c[(x if x < n else parent[x]) * stride + (parent[x] if x < n else x) - n] = 0
    for i in range(n):
        for j in range(m):
            near_c[i * stride + j] = (np.int32(c[i * stride + j] >> drop) << ROW_BITS) | np.int32(i & (BLOCK - 1))
    return drop


@njit
def _optimise(
    marker, n, stride, c, near_c, drop, price, near_price, parent, flow, sub, moved, up, down, patience, limit
):
    """Pivot until no integer reduced cost is negative, `patience` pivots were found in all bits alone, or there were
    `limit` of them; returns their number.
    """
    first, pivots, hard, tries, begin, lane = 0, 0, 0, 0, 0, 0
    least, tile = vectors.splat(np.int32(0)), vectors.splat(np.int32(0))
    for y in range(0, len(price), 8):
        vectors.store(near_price, y, near(vectors.load(price, y), drop))
    while pivots < limit:
        fresh = tries == 0
        if fresh:
            least, tile, here, begin, first = _candidates(near_c, stride, n, near_price, first)
            tries = TRIES if n > FEW else 1
        else:
            least = vectors.where(np.uint64(1) << np.uint64(lane), np.int32(0), least)
            here = vectors.lowest(least)
        tries -= 1
        row, column, reduced = -1, -1, np.int64(0)
        if here < NEGATIVE:
            lane = vectors.find(least, vectors.splat(here))
            row, column = begin + (here & (BLOCK - 1)), vectors.lane(tile, lane) + lane
            reduced = c[row * stride + column] - price[row] + price[n + column]
        if not fresh:
            if here >= NEGATIVE:
                tries = 0
                continue
            if 2 * reduced > np.int64(here >> ROW_BITS) << drop:
                continue
        elif reduced >= 0:
            if hard == patience:
                break
            row, column = _entering_exactly(c, stride, n, price, first)
            if column < 0:
                break
            reduced = c[row * stride + column] - price[row] + price[n + column]
            hard, tries = hard + 1, 0
        pivot(marker, n, row, column, reduced, parent, flow, price, drop, near_price, sub, moved, up, down)
        pivots += 1
    return pivots


@njit(title="the network simplex")
def solve_range(
    marker, cost, supply, demand, warm, flow_out, supply_price, demand_price, basis, iterations, converged, begin, end
):
    """Solve problems begin … end−1 of cost [B,n,m], supply [B,n], demand [B,m] into the output arrays.

    The length of marker is the number of 64-bit words for a set of n + m nodes. warm [B,n+m] or [0,0] holds trees of
    earlier solves, basis [B,n+m] receives those of this one. flow_out must be zero on entry. Inputs are contiguous,
    masses non-negative, totals equal up to rounding. A problem that is not finite does not converge and has no tree.
    """
    rows, columns = cost.shape[1], cost.shape[2]
    swap = rows > columns  # the longer side lies along the SIMD lanes
    n, m = (columns, rows) if swap else (rows, columns)
    nodes, words, stride = n + m, len(marker), (m + 15) & ~15
    given, copied = cost.reshape(-1), np.zeros(n * m + 8, cost.dtype)
    c, near_c = _lined(np.full(n * stride + 8, PAD, np.int64)), _lined(np.full(n * stride + 16, BIG, np.int32))
    row_mean, column_mean = np.zeros((n + 7) & ~7, np.int64), np.empty(stride, np.int64)
    s, d = np.empty((n + 7) & ~7, np.int64)[:n], np.empty(stride, np.int64)[:m]
    parent, order, stack = np.empty(nodes, NODE), np.empty(nodes, NODE), np.empty(nodes, NODE)
    up, down, mass, children = np.empty(nodes, NODE), np.empty(nodes, NODE), np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    wide = (n + stride + 7) & ~7
    flow, price, exact = np.empty(nodes, np.int64), np.zeros(wide, np.int64), np.zeros(wide, np.float64)
    near_price, offset = np.zeros(wide + 8, np.int32), np.empty(nodes, np.float64)
    sub, moved, done = _lined(np.empty(nodes * words + 8, np.int64)), np.empty(words, np.int64), np.empty(nodes, np.bool_)
    gone, there, place = np.empty(stride >> 4, np.uint64), np.empty(n, NODE), np.empty(n, np.int64)
    key, at = np.empty(stride, np.int32), np.empty(stride, np.int32)
    for b in range(begin, end):
        left, right = (demand[b], supply[b]) if swap else (supply[b], demand[b])
        supplied, demanded = _total(left), _total(right)
        iterations[b], converged[b] = 0, True
        if supplied <= 0.0:  # nothing to ship: no flow; zero prices are dual feasible only below the cheapest arc
            low = cost[b, 0, 0]
            for i in range(rows):
                for j in range(columns):
                    low = min(low, cost[b, i, j])
            for i in range(rows):
                supply_price[b, i] = low
            for j in range(columns):
                demand_price[b, j] = 0.0
            basis[b, :] = -2  # no tree
            continue
        source, base = given, b * n * m
        if swap or base + n * m + 8 > len(given):  # transposed, or with room for the vectors that read past the end
            source, base = copied, 0
            for i in range(n):
                for j in range(m):
                    copied[i * m + j] = cost[b, j, i] if swap else cost[b, i, j]
        top = _magnitude(source, base, n * m)
        if not supplied + demanded + top < np.inf:
            converged[b] = False
            supply_price[b, :], demand_price[b, :], basis[b, :] = 0.0, 0.0, -2
            continue
        unit = vectors.power_of_two(min(MASS_BITS - 1 - vectors.exponent(supplied), 1000))
        _masses(left, right, unit, s, d)
        scale = 2.0**COST_BITS / max(top, 2.0**-900) if top else 1.0
        drop = _integers(source, base, scale, n, m, stride, c, near_c, row_mean, column_mean)
        centred = drop == 0 and top > 0
        if centred:  # the costs are large beside their differences, of which too few bits are left
            _centred(source, base, n, m, offset, copied)
            source, base = copied, 0
            top = _magnitude(source, base, n * m)
            scale = 2.0**COST_BITS / max(top, 2.0**-900) if top else 1.0
            drop = _integers(source, base, scale, n, m, stride, c, near_c, row_mean, column_mean)
        root = -1
        if len(warm):
            root = restart(marker, warm[b], s, d, parent, flow, sub, order, mass, children)
        if root < 0:
            root = start(marker, near_c, stride, s, d, parent, flow, sub, order, gone, there, place, key, at)
        first_prices(c, stride, n, parent, order, root, price)
        left_over = 1000 * nodes
        # the integers' optimum is within 2^-38 of the largest cost; the caller's own costs have the last word: what
        # they find negative becomes the scale of new integers, until nothing is
        for _ in range(ROUNDS):
            pivots = _optimise(
                marker,
                n,
                stride,
                c,
                near_c,
                drop,
                price,
                near_price,
                parent,
                flow,
                sub,
                moved,
                up,
                down,
                nodes,
                left_over,
            )
            iterations[b] += pivots
            left_over -= pivots
            exact_prices(source, base, m, n, root, parent, exact, stack, done)
            largest = 0.0
            for x in range(nodes):
                largest = max(largest, abs(exact[x]))
            tolerance = nodes * 2.3e-16 * min(top, largest)
            least = _least(source, base, n, m, exact, tolerance)
            converged[b] = least >= -tolerance
            if converged[b] or left_over <= 0:
                break
            drop = _reduced(source, base, n, m, stride, exact, root, parent, max(-least * ROOM, 2.0**-900), c, near_c)
            for x in range(nodes):
                price[x] = 0
        if centred:
            for x in range(nodes):
                exact[x] += offset[x]
        ounce = 1.0 / unit
        for x in range(nodes):
            basis[b, x] = parent[x]
            if x != root:
                is_row = x < n
                i, j = x if is_row else parent[x], (parent[x] if is_row else x) - n
                units = (flow[x] + (1 << (PERTURB_BITS - 1))) >> PERTURB_BITS
                amount = units * ounce if units > NOTHING else 0.0
                if swap:
                    flow_out[b, j, i] = amount
                else:
                    flow_out[b, i, j] = amount
        for i in range(rows):
            supply_price[b, i] = -exact[n + i] if swap else exact[i]
        for j in range(columns):
            demand_price[b, j] = exact[j] if swap else -exact[n + j]
