"""The spanning tree of the network simplex: its start, greedy or warm, its pivots and its prices, compiled by Numba.

Nodes are rows 0 … n−1 and columns n … n+m−1. Each node but the root has a parent and a positive integer flow on the arc
between; `sub` holds the set of nodes below it, itself included, as `words` words of 64 bits. `words` is the length of
`marker`, 1 or a multiple of 8: a tuple makes it known to the compiler, which then keeps a set in one register.
"""

import numpy as np

from fewshot_cli.kernels import vectors
from fewshot_cli.kernels.compile import njit

NODE = np.uint16  # unsigned, so that no index needs a look at whether it is negative
ROOT = NODE(65535)  # the parent of the node that has none
INDEX_BITS = 11
ROW_BITS, PRICE_BITS = np.int64(5), 24  # of a row's number in its block, and of the prices the pricing looks at first
BIG, FAR = np.int32(1 << 30), np.int64(1 << 62)
COSTS, LAST = np.int32(-1 << INDEX_BITS), np.int32((1 << INDEX_BITS) - 1)  # the bits of a cost, and of an index below
ONE, BIT = np.uint64(1), np.int64(1)


@njit
def _alone(marker, sub, nodes):
    """Every node is the only one of its set."""
    for k in range(nodes * len(marker)):
        sub[k] = 0
    for x in range(nodes):
        sub[x * len(marker) + (x >> 6)] = BIT << (x & 63)


@njit
def _join(marker, sub, x, source, y):
    """The set of x takes in one of source."""
    for w in range(0, len(marker), 8):
        place = x * len(marker) + w
        both = vectors.either(
            vectors.load_set(marker, sub, place), vectors.load_set(marker, source, y * len(marker) + w)
        )
        vectors.store(sub, place, both)


@njit
def _leave(marker, sub, x, source, y):
    """The set of x loses one of source."""
    for w in range(0, len(marker), 8):
        place = x * len(marker) + w
        rest = vectors.without(
            vectors.load_set(marker, sub, place), vectors.load_set(marker, source, y * len(marker) + w)
        )
        vectors.store(sub, place, rest)


@njit
def _column_minima(keyed, stride, rows, there, gone, t, key, at):
    """The least costs of 16 columns from t over the `rows` rows still there, each with its row's number in `at` and
    with its column's in `key`, where columns that are gone cost more than any.
    """
    low = vectors.splat(BIG)
    for k in range(rows):
        i = np.int64(there[k])
        cell = vectors.both(vectors.load(keyed, i * stride + t), vectors.splat(COSTS))
        low = vectors.smin(low, vectors.either(cell, vectors.splat(np.int32(i))))
    vectors.store(at, t, low)
    vectors.store(key, t, vectors.where(gone[t >> 4], BIG, vectors.numbered(low, np.int32(t))))


@njit
def start(marker, keyed, stride, s, d, parent, flow, sub, order, gone, there, place, key, at):
    """Matrix-minimum basis: each step fills one cell and crosses out the side that ran empty; its parent is the other.

    keyed [n·stride] holds costs. Fills parent, flow, sub and the order in which nodes were crossed out; consumes the
    masses s and d; returns the root, the node never crossed out. The rest is scratch: the
    columns gone, the rows there and where each stands among these, and the columns' minima.
    """
    n, m = len(s), len(d)
    _alone(marker, sub, n + m)
    rows, columns, root = n, m, 0
    for i in range(n):
        there[i] = place[i] = i
    for t in range(0, stride, 16):
        gone[t >> 4] = 0
        _column_minima(keyed, stride, rows, there, gone, t, key, at)
    for step in range(n + m - 1):
        while True:  # a cached minimum is a lower bound: it holds while its row is there
            low = vectors.load(key, 0)
            for t in range(16, stride, 16):
                low = vectors.smin(low, vectors.load(key, t))
            j = np.int64(vectors.lowest(low) & LAST)
            i = np.int64(at[j] & LAST)
            if place[i] >= 0:
                break
            _column_minima(keyed, stride, rows, there, gone, j & ~15, key, at)
        take = min(s[i], d[j])
        s[i] -= take
        d[j] -= take
        tile = j & ~15
        head = np.int64(NODE(n + j))
        if columns == 1 or (s[i] == 0 and rows > 1):
            out, root = i, head
            rows -= 1
            last = there[rows]
            there[place[i]], place[last], place[i] = last, place[i], -1
            _column_minima(keyed, stride, rows, there, gone, tile, key, at)
        else:
            out, root = head, i
            gone[tile >> 4] |= ONE << np.uint64(j & 15)
            # as a vector: a scalar write would stall the vector read that follows
            vectors.store(key, tile, vectors.where(ONE << np.uint64(j & 15), BIG, vectors.load(key, tile)))
            columns -= 1
        parent[out], flow[out], order[step] = root, take, out
        _join(marker, sub, root, sub, out)
    parent[root] = ROOT
    return root


@njit
def restart(marker, basis, s, d, parent, flow, sub, order, mass, children):
    """Take the tree of an earlier solve; fills what `start` fills and returns its root, or −1 when the new masses do
    not fit.

    basis [n+m] holds parents. Each node ships what its children leave of its mass, which must be more than nothing.
    """
    n, nodes = len(s), len(s) + len(d)
    root = -1
    for x in range(nodes):
        mass[x] = s[x] if x < n else d[x - n]
        children[x] = 0
    for x in range(nodes):
        p = np.int64(basis[x])
        if p == -1:
            if root >= 0:
                return -1
            root = x
        elif p < 0 or p >= nodes or (p < n) == (x < n):
            return -1
        else:
            children[p] += 1
        parent[x] = p
    last = 0
    _alone(marker, sub, nodes)
    for x in range(nodes):
        if children[x] == 0:
            order[last] = x
            last += 1
    step = 0
    while step < last:
        x = order[step]
        step += 1
        p = parent[x]
        if p == ROOT:
            break
        if mass[x] <= 0:
            return -1
        flow[x] = mass[x]
        mass[p] -= mass[x]
        _join(marker, sub, p, sub, x)
        children[p] -= 1
        if children[p] == 0:
            order[last] = p
            last += 1
    return root if last == nodes else -1


@njit
def first_prices(c, stride, n, parent, order, root, price):
    """Prices of the start: the reduced cost c − row price + column price of every tree arc is zero."""
    price[root] = 0
    for k in range(len(order) - 2, -1, -1):
        x = order[k]
        p = parent[x]
        is_row = x < n
        cell = c[np.uint64((x if is_row else p) * stride + (p if is_row else x) - n)]
        price[x] = price[p] + (cell if is_row else -cell)


@njit
def near(price, drop):
    """The top bits of prices, limited to `PRICE_BITS`, with room for a row's number."""
    high = np.int64(1) << (PRICE_BITS + drop)
    return vectors.shifted(vectors.smax(vectors.smin(price, vectors.splat(high)), vectors.splat(-high)), drop, ROW_BITS)


@njit
def pivot(marker, n, row, column, reduced, parent, flow, price, drop, near_price, sub, moved, up, down):
    """Bring (row, column) into the tree, push flow round its cycle, take the emptied arc out, shift prices.

    Rows and columns alternate along the cycle, and so do rise and fall of the flow: from either end of the entering arc
    the first arc falls. moved is scratch of one set; up and down take the two paths to the cycle's apex.
    """
    words, head, row = len(marker), np.int64(NODE(n + column)), np.int64(NODE(row))
    word, bit = row >> 6, row & 63
    push, leave, from_head = FAR, 0, True
    x, steps, others = head, 0, 0
    while (sub[x * words + word] >> bit) & 1 == 0:
        up[steps] = x
        if flow[x] < push:
            push, leave = flow[x], steps
        steps += 1
        x = parent[x]
        if (sub[x * words + word] >> bit) & 1 != 0:
            break
        up[steps] = x
        steps += 1
        x = parent[x]
    apex, x = x, row
    while x != apex:
        down[others] = x
        if flow[x] < push:
            push, leave, from_head = flow[x], others, False
        others += 1
        x = parent[x]
        if x == apex:
            break
        down[others] = x
        others += 1
        x = parent[x]
    if from_head:
        inner, outer, above, shift = up, down, row, -reduced
    else:
        inner, outer, above, shift = down, up, head, reduced
        steps, others = others, steps
    for w in range(0, words, 8):
        vectors.store(moved, w, vectors.load_set(marker, sub, inner[leave] * words + w))
    # what hangs under the leaving arc leaves its old ancestors for those of the entering arc's other end
    change = -push
    for k in range(others):
        x = outer[k]
        flow[x] += change
        change = -change
        _join(marker, sub, x, moved, 0)
    change = push
    for k in range(leave + 1, steps):
        x = inner[k]
        flow[x] += change
        change = -change
        _leave(marker, sub, x, moved, 0)
    # the path up to the leaving arc turns round: a node keeps all of the set but what now hangs above it
    change = push
    for k in range(leave, 0, -1):
        x, y = inner[k], inner[k - 1]
        flow[x], parent[x] = flow[y] + change, y
        change = -change
        for w in range(0, words, 8):
            rest = vectors.without(vectors.load_set(marker, moved, w), vectors.load_set(marker, sub, y * words + w))
            vectors.store(sub, x * words + w, rest)
    x = inner[0]
    flow[x], parent[x] = push, above
    for w in range(0, words, 8):
        vectors.store(sub, x * words + w, vectors.load_set(marker, moved, w))
    for y in range(0, len(parent), 8):  # and its prices shift until the entering arc costs nothing
        shifted = vectors.add_where(vectors.load(price, y), np.uint64(moved[y >> 6] >> (y & 63)), shift)
        vectors.store(price, y, shifted)
        vectors.store(near_price, y, near(shifted, drop))


@njit
def exact_prices(source, base, m, n, root, parent, price, stack, done):
    """Prices of the tree from the caller's own costs [n,m] at source[base:]; the root's is zero. stack, done:
    scratch.
    """
    for x in range(n + m):
        done[x] = False
    price[root], done[root] = 0.0, True
    for y in range(n + m):
        x, top = y, 0
        while not done[x]:
            stack[top] = x
            top += 1
            x = parent[x]
        while top > 0:
            top -= 1
            x = stack[top]
            p = parent[x]
            is_row = x < n
            cell = np.float64(source[np.uint64(base + (x if is_row else p) * m + (p if is_row else x) - n)])
            price[x] = price[p] + (cell if is_row else -cell)
            done[x] = True
