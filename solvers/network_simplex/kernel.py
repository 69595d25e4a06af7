"""The primal network simplex for dense transport problems, compiled by Numba.

Exact arithmetic, so that termination needs no tolerance: costs become integers of 2^-38 of the largest, masses integers
of 2^-48 of the total. Every mass is then perturbed by one part in `PERTURB` (each node but one ships one extra unit),
which makes every basic flow positive: no degenerate pivot exists, so the objective falls with each one and no basis
returns (Orden 1956; the strongly feasible trees of Cunningham 1976 are its combinatorial form). The perturbation is
rounded away at the end.

The start is the matrix-minimum rule on double-centred costs. Pricing looks at 27 bits of them, 16 to a vector, and
falls back on all bits where these see nothing; where it is dear, the runners-up enter next if they are still as good
as half of what they were. Column prices are kept negated, so that a subtree's prices shift together.
"""

import numpy as np

from fewshot_cli.kernels import vectors
from fewshot_cli.kernels.compile import njit
from fewshot_cli.solvers.network_simplex import integers, tree
from fewshot_cli.solvers.network_simplex.integers import ALL, BLOCK, COST_BITS, MASS_BITS, NEAR_BITS, PAD, PERTURB_BITS
from fewshot_cli.solvers.network_simplex.tree import BIG, NODE, ROW_BITS

NEGATIVE = np.int32(-3 << 5)  # less than that is negative in all bits, whatever was cut off
TRIES, FEW = 3, 16  # pivots that one pricing may serve, unless no more than so many rows make it cheap
NOTHING = 4  # units of mass and less are rounding, which would go over any arc, however dear
ROUNDS = 64  # of integers for one problem
ROOM = 1024.0  # how far above the size of what is negative reduced costs are told apart


@njit
def _lined(array):
    """An array from where a line of the cache begins: a vector across two takes twice as long to read."""
    return array[vectors.to_line(array) :]


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
        vectors.store(near_price, y, tree.near(vectors.load(price, y), drop))
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
        if not fresh:  # a runner-up
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
        tree.pivot(marker, n, row, column, reduced, parent, flow, price, drop, near_price, sub, moved, up, down)
        pivots += 1
    return pivots


@njit(title="the network simplex")
def solve_range(
    marker, cost, supply, demand, warm, flow_out, supply_price, demand_price, basis, iterations, converged, begin, end
):
    """Solve problems begin … end−1 of cost [B,n,m], supply [B,n], demand [B,m] into the output arrays.

    The length of marker is the number of 64-bit words for a set of n + m nodes. warm [B,n+m] or [0,0] holds trees of
    earlier solves, basis [B,n+m] receives those of this one. All arrays are contiguous, masses non-negative, totals
    equal up to rounding. A problem that is not finite does not converge and has no tree.
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
    up, down = np.empty(nodes, NODE), np.empty(nodes, NODE)
    mass, children = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    wide = (n + stride + 7) & ~7
    flow, price, exact = np.empty(nodes, np.int64), np.zeros(wide, np.int64), np.zeros(wide, np.float64)
    near_price, offset = np.zeros(wide + 8, np.int32), np.empty(nodes, np.float64)
    sub, moved = _lined(np.empty(nodes * words + 8, np.int64)), np.empty(words, np.int64)
    done = np.empty(nodes, np.bool_)
    gone, there, place = np.empty(stride >> 4, np.uint64), np.empty(n, NODE), np.empty(n, np.int64)
    key, at = np.empty(stride, np.int32), np.empty(stride, np.int32)
    flows = flow_out.reshape(-1)
    for b in range(begin, end):
        flows[b * n * m : (b + 1) * n * m] = 0
        left, right = (demand[b], supply[b]) if swap else (supply[b], demand[b])
        supplied, demanded = integers.total(left), integers.total(right)
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
        top = integers.magnitude(source, base, n * m)
        if not supplied + demanded + top < np.inf:
            converged[b] = False
            supply_price[b, :], demand_price[b, :], basis[b, :] = 0.0, 0.0, -2
            continue
        unit = vectors.power_of_two(min(MASS_BITS - 1 - vectors.exponent(supplied), 1000))
        integers.masses(left, right, unit, s, d)
        scale = 2.0**COST_BITS / max(top, 2.0**-900) if top else 1.0
        drop = integers.costs(source, base, scale, n, m, stride, c, near_c, row_mean, column_mean)
        centred = drop == 0 and top > 0
        if centred:  # the costs are large beside their differences, of which too few bits are left
            _centred(source, base, n, m, offset, copied)
            source, base = copied, 0
            top = integers.magnitude(source, base, n * m)
            scale = 2.0**COST_BITS / max(top, 2.0**-900) if top else 1.0
            drop = integers.costs(source, base, scale, n, m, stride, c, near_c, row_mean, column_mean)
        root = -1
        if len(warm):
            root = tree.restart(marker, warm[b], s, d, parent, flow, sub, order, mass, children)
        if root < 0:
            root = tree.start(marker, near_c, stride, s, d, parent, flow, sub, order, gone, there, place, key, at)
        tree.first_prices(c, stride, n, parent, order, root, price)
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
            tree.exact_prices(source, base, m, n, root, parent, exact, stack, done)
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
