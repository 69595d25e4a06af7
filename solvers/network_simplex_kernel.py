"""The primal network simplex for one dense transport problem, compiled by Numba.

Exact arithmetic, so that termination needs no tolerance: costs become integers of 2^-38 of the largest, masses integers
of 2^-44 of the total. Every mass is then perturbed by one part in `PERTURB` (each node but one ships one extra unit), which
makes every basic flow positive: no degenerate pivot exists, so the objective falls with each one and no basis returns
(Orden 1956; the strongly feasible trees of Cunningham 1976 are its combinatorial form). The perturbation is rounded
away at the end.

The start is the matrix-minimum rule on double-centred costs. A basis is a spanning tree kept as parent, flow on the
arc to the parent, and the subtree of each node as a bit mask over all nodes.
"""

import os
from pathlib import Path

import numba
import numpy as np
from numba import njit
from platformdirs import user_cache_path

if "NUMBA_CACHE_DIR" not in os.environ:  # read when a function is declared, so it must be set before those below
    numba.config.CACHE_DIR = str(user_cache_path("fsl", appauthor=False) / "numba")

COST_BITS, MASS_BITS, INDEX_BITS, PERTURB_BITS = 38, 48, 11, 12
MAX_NODES = 1 << INDEX_BITS  # of one side; n + m stays below 2^PERTURB_BITS
BLOCK = 32  # rows priced together
FAR = np.int64(1 << 62)
MASK32, MASK64 = np.int32(0x7FFFFFFF), np.int64(0x7FFFFFFFFFFFFFFF)  # all but the sign
GONE = np.int64(1 << 49)  # added to the cost of a crossed-out column


def compiled_before() -> bool:
    """Whether an earlier process left compiled code of this kernel."""
    folder = Path(solve_range.stats.cache_path)
    return any(folder.glob(f"{Path(__file__).stem}.solve_range*.nbc"))


@njit(cache=True, nogil=True)
def _magnitude(bits):
    """A power of two above the largest |value| of floats given as their bits; 0 when all are zero.

    On integers a maximum runs along the SIMD lanes, which it does not on floats.
    """
    top = bits[0, 0] & 0
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            top = max(top, bits[i, j] & MASK64 if bits.itemsize == 8 else bits[i, j] & MASK32)
    exponent = (top >> 52) - 1022 if bits.itemsize == 8 else (top >> 23) - 126
    return 2.0**exponent if top else 0.0


@njit(cache=True, nogil=True)
def _masses(supply, demand, unit, s, d):
    """Integer masses, at least one unit each, with equal totals and the perturbation."""
    n, m = len(supply), len(demand)
    s_sum, s_top, d_sum, d_top = np.int64(0), 0, np.int64(0), 0
    for i in range(n):
        s[i] = max(np.int64(np.rint(supply[i] * unit)), 1)
        s_sum += s[i]
        if s[i] > s[s_top]:
            s_top = i
    for j in range(m):
        d[j] = max(np.int64(np.rint(demand[j] * unit)), 1)
        d_sum += d[j]
        if d[j] > d[d_top]:
            d_top = j
    # rounding, the caller's float32 as well as ours, left a difference: the heavier side gives it up in proportion
    gap = s_sum - d_sum
    if gap > 0:
        _take(s, gap, s_sum, s_top)
    elif gap < 0:
        _take(d, -gap, d_sum, d_top)
    for i in range(n):
        s[i] = (s[i] << PERTURB_BITS) + 1
    for j in range(m):
        d[j] = (d[j] << PERTURB_BITS) - 1
    s[s_top] -= n + m  # the one node that does not ship a unit but takes them all


@njit(cache=True, nogil=True)
def _take(masses, gap, total, top):
    """Remove `gap` from masses in proportion, the remainder from the largest."""
    left = gap
    share = gap / total
    for k in range(len(masses)):
        part = min(np.int64(masses[k] * share), masses[k] - 1)
        masses[k] -= part
        left -= part
    masses[top] -= left


@njit(cache=True, nogil=True)
def _integers(cost, scale, swap, c, keyed, row_mean, column_mean):
    """Double-centred integer costs: c [n,m], and keyed [n,m] = c·2^INDEX_BITS + row; `swap` reads cost transposed."""
    n, m = c.shape
    for i in range(n):
        total = np.int64(0)
        for j in range(m):
            c[i, j] = np.int64(np.rint((cost[j, i] if swap else cost[i, j]) * scale))
            total += c[i, j]
        row_mean[i] = total // m
    for j in range(m):
        column_mean[j] = 0
    for i in range(n):
        for j in range(m):
            c[i, j] -= row_mean[i]
            column_mean[j] += c[i, j]
    for j in range(m):
        column_mean[j] //= n
    for i in range(n):
        for j in range(m):
            c[i, j] -= column_mean[j]
            keyed[i, j] = (c[i, j] << INDEX_BITS) | i


@njit(cache=True, nogil=True)
def _row_minimum(row, penalty, row_key, i):
    """Smallest cost of a row over the columns still there, with its column, packed as cost·2^INDEX_BITS + column."""
    low = FAR
    for j in range(len(row)):
        low = min(low, ((row[j] + penalty[j]) << INDEX_BITS) | j)
    row_key[i] = low


@njit(cache=True, nogil=True)
def _start(c, s, d, parent, flow, sub, order, penalty, row_key):
    """Matrix-minimum basis: each step fills one cell and crosses out the side that ran empty; its parent is the other.

    Fills parent, flow, sub and the order in which nodes were crossed out; returns the root, the node never crossed out.
    """
    n, m = c.shape
    one = np.uint64(1)
    for x in range(n + m):
        for w in range(sub.shape[1]):
            sub[x, w] = 0
        sub[x, x >> 6] = one << np.uint64(x & 63)
    for j in range(m):
        penalty[j] = 0
    for i in range(n):
        _row_minimum(c[i], penalty, row_key, i)
    rows, columns, root = n, m, 0
    for step in range(n + m - 1):
        while True:  # a cached minimum is a lower bound: it holds while its column is there
            i = 0
            for k in range(1, n):
                if row_key[k] < row_key[i]:
                    i = k
            j = row_key[i] & (MAX_NODES - 1)
            if penalty[j] == 0:
                break
            _row_minimum(c[i], penalty, row_key, i)
        take = min(s[i], d[j])
        s[i] -= take
        d[j] -= take
        if columns == 1 or (s[i] == 0 and rows > 1):
            out, root = i, n + j
            row_key[i] = FAR
            rows -= 1
        else:
            out, root = n + j, i
            penalty[j] = GONE
            columns -= 1
        parent[out], flow[out], order[step] = root, take, out
        for w in range(sub.shape[1]):
            sub[root, w] |= sub[out, w]
    parent[root] = -1
    return root


@njit(cache=True, nogil=True)
def _entering(keyed, price, first, best):
    """The most negative reduced cost in the first block of rows, from row `first` on, that has one.

    Returns (reduced cost, row, column, first row to look at next time); column −1 when the basis is optimal.
    """
    n, m = keyed.shape
    for _ in range((n + BLOCK - 1) // BLOCK):
        stop = min(first + BLOCK, n)
        for j in range(m):
            best[j] = FAR
        for i in range(first, stop):
            shift = price[i] << INDEX_BITS
            row = keyed[i]
            for j in range(m):
                best[j] = min(best[j], row[j] - shift)
        for j in range(m):
            best[j] -= price[n + j] << INDEX_BITS
        low, column = np.int64(0), -1
        for j in range(m):
            if best[j] < low:
                low, column = best[j], j
        start, first = first, stop if stop < n else 0
        if column >= 0:
            return low >> INDEX_BITS, low & (MAX_NODES - 1), column, start if n <= BLOCK else first
    return np.int64(0), -1, -1, first


@njit(cache=True, nogil=True)
def _pivot(n, row, column, reduced, parent, flow, price, sub, moved, below):
    """Bring (row, column) into the tree, push flow round its cycle, take the emptied arc out, shift prices.

    moved and below are scratch, one word of a mask each.
    """
    words, tail, head = sub.shape[1], row, n + column
    word, bit = row >> 6, np.uint64(row & 63)
    # flow falls on arcs whose child is a column above the entering arc's head, and a row above its tail
    push, leave, inner, outer = FAR, -1, head, tail
    apex = head
    while (sub[apex, word] >> bit) & np.uint64(1) == 0:
        if apex >= n and flow[apex] < push:
            push, leave = flow[apex], apex
        apex = parent[apex]
    x = tail
    while x != apex:
        if x < n and flow[x] < push:
            push, leave, inner, outer = flow[x], x, tail, head
        x = parent[x]
    columns_fall = inner == head
    for w in range(words):
        moved[w] = sub[leave, w]
        below[w] = 0
    # the subtree under the leaving arc leaves its old ancestors for those of the entering arc's other end
    x = parent[leave]
    while x != apex:
        flow[x] += -push if (x >= n) == columns_fall else push
        for w in range(words):
            sub[x, w] &= ~moved[w]
        x = parent[x]
    x = outer
    while x != apex:
        flow[x] += push if (x >= n) == columns_fall else -push
        for w in range(words):
            sub[x, w] |= moved[w]
        x = parent[x]
    # the path inner … leave turns round: a node keeps all of the subtree but what now hangs above it
    above, on_arc, x = outer, push, inner
    while True:
        next_arc = flow[x] + (-push if (x >= n) == columns_fall else push)
        next_x = parent[x]
        parent[x], flow[x] = above, on_arc
        for w in range(words):
            own = sub[x, w]
            sub[x, w] = moved[w] & ~below[w]
            below[w] = own
        if x == leave:
            break
        above, on_arc, x = x, next_arc, next_x
    # its prices shift, rows against columns, until the entering arc costs nothing
    shift = -reduced if columns_fall else reduced
    for w in range(words):
        mask, base = moved[w], w << 6
        for y in range(base, min(base + 64, n)):
            price[y] += shift * np.int64((mask >> np.uint64(y - base)) & np.uint64(1))
        for y in range(max(base, n), min(base + 64, len(price))):
            price[y] -= shift * np.int64((mask >> np.uint64(y - base)) & np.uint64(1))


@njit(cache=True, nogil=True)
def _exact_prices(cost, swap, n, root, parent, price, stack, done):
    """Prices of the tree from the caller's own costs: every tree arc's reduced cost is zero, the root's price is."""
    for x in range(len(price)):
        done[x] = False
    price[root], done[root] = 0.0, True
    for y in range(len(price)):
        x, top = y, 0
        while not done[x]:
            stack[top] = x
            top += 1
            x = parent[x]
        while top > 0:
            top -= 1
            x = stack[top]
            i, j = (x, parent[x] - n) if x < n else (parent[x], x - n)
            price[x] = (cost[j, i] if swap else cost[i, j]) - price[parent[x]]
            done[x] = True


@njit(cache=True, nogil=True)
def _violated(cost, swap, n, price, tolerance):
    """The cell whose reduced cost is furthest below −tolerance, as (row, column); (−1, −1) when there is none."""
    first, second = (price[n:], price[:n]) if swap else (price[:n], price[n:])
    bad = 0
    for i in range(len(first)):
        for j in range(len(second)):
            bad += cost[i, j] - first[i] - second[j] < -tolerance
    row, column = -1, -1
    if bad:
        low = -tolerance
        for i in range(len(first)):
            for j in range(len(second)):
                if cost[i, j] - first[i] - second[j] < low:
                    low, row, column = cost[i, j] - first[i] - second[j], i, j
    return (column, row) if swap and row >= 0 else (row, column)


@njit(cache=True, nogil=True)
def solve_range(cost, bits, supply, demand, flow_out, supply_price, demand_price, iterations, converged, begin, end):
    """Solve problems begin … end−1 of cost [B,n,m], supply [B,n], demand [B,m] into the output arrays.

    bits is cost seen as integers; flow_out must be zero on entry. Inputs are finite, masses non-negative, totals equal up to rounding.
    """
    rows, columns = cost.shape[1], cost.shape[2]
    swap = rows > columns  # the longer side lies along the SIMD lanes
    n, m = (columns, rows) if swap else (rows, columns)
    nodes = n + m
    c, keyed = np.empty((n, m), np.int64), np.empty((n, m), np.int64)
    row_mean, column_mean = np.empty(n, np.int64), np.empty(m, np.int64)
    s, d = np.empty(n, np.int64), np.empty(m, np.int64)
    parent, order, stack = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    flow, price, exact = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(nodes, np.float64)
    sub, done = np.empty((nodes, (nodes + 63) >> 6), np.uint64), np.empty(nodes, np.bool_)
    moved, below = np.empty(sub.shape[1], np.uint64), np.empty(sub.shape[1], np.uint64)
    best, penalty, row_key = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(n, np.int64)
    for b in range(begin, end):
        left, right = (demand[b], supply[b]) if swap else (supply[b], demand[b])
        total = 0.0
        for i in range(n):
            total += left[i]
        iterations[b], converged[b] = 0, True
        if total <= 0.0:  # nothing to ship: no flow; zero prices are dual feasible only below the cheapest arc
            low = cost[b].min()
            for i in range(rows):
                supply_price[b, i] = low
            for j in range(columns):
                demand_price[b, j] = 0.0
            continue
        unit = 2.0 ** min(MASS_BITS - 1 - np.floor(np.log2(total)), 1000.0)
        _masses(left, right, unit, s, d)
        top = _magnitude(bits[b])
        _integers(cost[b], 2.0**COST_BITS / max(top, 2.0**-900) if top else 1.0, swap, c, keyed, row_mean, column_mean)
        root = _start(c, s, d, parent, flow, sub, order, penalty, row_key)
        price[root] = 0
        for k in range(nodes - 2, -1, -1):
            x, p = order[k], parent[order[k]]
            price[x] = (c[x, p - n] if x < n else c[p, x - n]) - price[p]
        first, limit = 0, 1000 * nodes
        while True:
            reduced, row, column, first = _entering(keyed, price, first, best)
            if column < 0:
                break
            if iterations[b] == limit:
                converged[b] = False
                break
            _pivot(n, row, column, reduced, parent, flow, price, sub, moved, below)
            iterations[b] += 1
        # the integers' optimum is within 2^-38 of the largest cost; the caller's own costs have the last word
        tolerance = nodes * 2.3e-16 * top
        while True:
            _exact_prices(cost[b], swap, n, root, parent, exact, stack, done)
            row, column = _violated(cost[b], swap, n, exact, tolerance)
            if row < 0 or iterations[b] >= limit:
                break
            _pivot(n, row, column, np.int64(0), parent, flow, price, sub, moved, below)
            iterations[b] += 1
        for x in range(nodes):
            if x != root:
                i, j = (x, parent[x] - n) if x < n else (parent[x], x - n)
                amount = ((flow[x] + (1 << (PERTURB_BITS - 1))) >> PERTURB_BITS) / unit
                if swap:
                    flow_out[b, j, i] = amount
                else:
                    flow_out[b, i, j] = amount
        for i in range(rows):
            supply_price[b, i] = exact[n + i] if swap else exact[i]
        for j in range(columns):
            demand_price[b, j] = exact[j] if swap else exact[n + j]
