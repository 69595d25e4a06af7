"""The compiled steps of the structured fully connected layer's fine-tuning; what they compute is told in `sfc_flow`.

J nodes of the layer, N of all images of an episode; û is an image's node, centred and of length one; v a node of the
layer, w its momentum. Where products are kept, state holds û·v and moving û·w for all J and N, else v and w themselves.
"""

import numpy as np

from fewshot_cli.kernels.compile import FLOATS, njit
from fewshot_cli.kernels.vectors import (
    F32,
    fma,
    load,
    load_first,
    lowest_bit,
    nonzero,
    splat,
    store,
    store_first,
    summed,
)

compiled = njit(title="the fine-tuning", **FLOATS)
# a call might run a copy compiled by itself, with other last bits, in the process that compiles the code, and no other
inlined = njit(forceinline=True, **FLOATS)
LANES = F32.count
KEPT = 16  # steps whose sparse gradients are kept before they are added up
LEAST = 1e-12  # lengths below it count as it, as in `torch.nn.functional.normalize`
STRIP = 64  # columns of which four vectors stay in registers while rows are added up


@inlined
def _flush(rows, coefs, first, slopes, steps, momentum, lr, made):
    """Add the gradients kept from `steps` steps to made [2,J,N+1]: layer and momentum as sums of the û_i and v_j(0)."""
    for j in range(made.shape[1]):
        for adding in range(2):
            # backwards: layer and momentum at the end are a·v + c·w and f·v + g·w of layer and momentum at step s
            a, c, f, g = 1.0, 0.0, 0.0, 1.0
            layer, moving = made[0, j], made[1, j]
            for s in range(steps - 1, -1, -1):
                h, k = c - lr * a, g - lr * f
                if adding:
                    for t in range(first[s, j], first[s, j + 1]):
                        layer[rows[t]] += np.float32(h) * coefs[t]
                        moving[rows[t]] += np.float32(k) * coefs[t]
                a, c, f, g = a + h * slopes[s, j], h * momentum, f + k * slopes[s, j], k * momentum
            if not adding:
                for r in range(len(layer)):
                    v, w = layer[r], moving[r]
                    layer[r] = np.float32(a) * v + np.float32(c) * w
                    moving[r] = np.float32(f) * v + np.float32(g) * w


@inlined
def _gradient(products, at, flow, base, labels, pick, way, temperature, rate, inverse, rows, coefs, first, slopes):
    """The step's gradient for one episode, times rate: node j's is Σ coefs·û[rows] from first[j] on + slopes[j]·v_j.

    flow [·,m,n] of the images `pick` begins at problem `base`; their nodes are columns at[b] … of products [J,·].
    """
    count, m, n, width, filled = len(pick), flow.shape[1], flow.shape[2], products.shape[1], 0
    share = temperature / n
    pull, similar = np.empty((count, way)), np.empty((count * way, m))
    place, amount = np.empty(count * way * m * n, np.int32), np.empty(count * way * m * n, np.float32)
    ends = np.zeros(count * way * m + 1, np.int64)
    for b in range(count):
        top = -np.inf
        for k in range(way):
            total = 0.0
            for j in range(m):
                q, dot = (b * way + k) * m + j, splat(np.float32(0))
                for t in range(0, n, LANES):
                    x = load_first(flow, (base * m + q) * n + t, n - t)
                    dot = fma(x, load_first(products, (k * m + j) * width + at[b] + t, n - t), dot)
                    bits = nonzero(x)
                    while bits:  # one in a dozen is set
                        i = t + lowest_bit(bits)
                        place[filled], amount[filled] = pick[b] * n + i, flow[base + b * way + k, j, i]
                        bits, filled = bits & (bits - np.uint64(1)), filled + 1
                ends[q + 1] = filled
                similar[b * way + k, j] = summed(dot) * inverse[k * m + j]
                total += similar[b * way + k, j]
            pull[b, k] = share * total
            top = max(top, pull[b, k])
        total = 0.0
        for k in range(way):
            pull[b, k] = np.exp(pull[b, k] - top)
            total += pull[b, k]
        for k in range(way):
            pull[b, k] = (pull[b, k] / total - (1.0 if k == labels[pick[b]] else 0.0)) * share * rate / count
    to = first[0]
    for k in range(way):
        for j in range(m):
            inverse_length, slope = inverse[k * m + j], 0.0
            for b in range(count):
                q, scale = (b * way + k) * m + j, np.float32(pull[b, k] * inverse_length)
                for t in range(ends[q], ends[q + 1]):
                    rows[to], coefs[to] = place[t], scale * amount[t]
                    to += 1
                slope -= pull[b, k] * similar[b * way + k, j]
            first[k * m + j + 1], slopes[k * m + j] = to, slope * inverse_length * inverse_length


@inlined
def _descend(state, moving, table, rows, coefs, first, slopes, momentum, lr):
    """A step of SGD with momentum on state and moving [J,W], the layer's products or the layer; table [N,W] is û there.

    W is a multiple of 64: so many columns of a node's momentum are summed in registers.
    """
    width, zero = state.shape[1], splat(np.float32(0))
    keep, down = splat(np.float32(momentum)), splat(np.float32(-lr))
    for c in range(0, width, STRIP):
        for j in range(state.shape[0]):
            o, slope = j * width + c, splat(np.float32(slopes[j]))
            p, q = load(state, o), load(state, o + 16)
            r, s = load(state, o + 32), load(state, o + 48)
            v, w = fma(slope, p, zero), fma(slope, q, zero)
            x, y = fma(slope, r, zero), fma(slope, s, zero)
            for t in range(first[j], first[j + 1]):
                a, i = splat(coefs[t]), rows[t] * width + c
                v, w = fma(a, load(table, i), v), fma(a, load(table, i + 16), w)
                x, y = fma(a, load(table, i + 32), x), fma(a, load(table, i + 48), y)
            v, w = fma(keep, load(moving, o), v), fma(keep, load(moving, o + 16), w)
            x, y = fma(keep, load(moving, o + 32), x), fma(keep, load(moving, o + 48), y)
            store(moving, o, v)
            store(moving, o + 16, w)
            store(moving, o + 32, x)
            store(moving, o + 48, y)
            store(state, o, fma(down, v, p))
            store(state, o + 16, fma(down, w, q))
            store(state, o + 32, fma(down, x, r))
            store(state, o + 48, fma(down, y, s))


@inlined
def _meet(state, rows, coefs, first, out):
    """Products [J] of each gradient's Σ coefs·û with the node, or its momentum, whose products with û are in state."""
    for j in range(state.shape[0]):
        out[j] = 0.0
        for t in range(first[j], first[j + 1]):
            out[j] += coefs[t] * state[j, rows[t]]


@inlined
def _lengths(with_node, with_momentum, with_new, slopes, momentum, lr, squares):
    """Carry squares [3,J], |v|², v·w and |w|² of each node v and its momentum w, over a step."""
    for j in range(squares.shape[1]):
        vv, vw, ww = squares[0, j], squares[1, j], squares[2, j]
        v_new = momentum * vw + with_node[j] + slopes[j] * vv
        w_new = momentum * ww + with_momentum[j] + slopes[j] * vw
        new_new = momentum * w_new + with_new[j] + slopes[j] * v_new
        squares[0, j], squares[1, j] = vv - 2 * lr * v_new + lr * lr * new_new, v_new - lr * new_new
        squares[2, j] = new_new


@compiled
def scale(source, centre, unit, out, means, lengths):
    """Rows of source [R,d] into out [R,W]: less their mean if `centre`, then of length one if `unit`; means and lengths
    [R].
    """
    d, width, one = source.shape[1], out.shape[1], splat(np.float32(1))
    for r in range(len(source)):
        mean, total = np.float32(0), splat(np.float32(0))
        if centre:
            for c in range(0, d, LANES):
                total = fma(one, load_first(source, r * d + c, d - c), total)
            mean, total = summed(total) / np.float32(d), splat(np.float32(0))
        for c in range(d):
            out[r, c] = source[r, c] - mean
        for c in range(0, d, LANES):
            x = load_first(out, r * width + c, d - c)
            total = fma(x, x, total)
        means[r], lengths[r] = mean, np.sqrt(summed(total))
        if unit:
            by = np.float32(1 / max(lengths[r], LEAST))
            for c in range(d):
                out[r, c] *= by


@compiled
def turn(rows, n, strips):
    """Columns of rows [P·n,W], those of each n rows by themselves, in strips [P·⌈n/16⌉,W,16] of 16 rows."""
    each = -(-n // LANES)
    for t in range(len(strips)):
        begin = t // each * n + t % each * LANES
        for r in range(begin, min(begin + LANES, (t // each + 1) * n)):
            for c in range(strips.shape[1]):
                strips[t, c, r - begin] = rows[r, c]


@compiled
def multiply(left, strips, chosen, symmetric, products):
    """products [J,16·B] of left [J,≥K] with the `chosen` of strips [·,K,16]; `symmetric`: one triangle is worked
    out.
    """
    last, width, zero = len(left) - 1, products.shape[1], splat(np.float32(0))
    for b in range(len(chosen)):
        for j in range(b * LANES if symmetric else 0, last + 1, 4):
            p, q, r = min(j + 1, last), min(j + 2, last), min(j + 3, last)
            v, w, x, y, at = zero, zero, zero, zero, chosen[b] * strips.shape[1] * LANES
            for c in range(strips.shape[1]):
                u = load(strips, at + c * LANES)
                v, w = fma(splat(left[j, c]), u, v), fma(splat(left[p, c]), u, w)
                x, y = fma(splat(left[q, c]), u, x), fma(splat(left[r, c]), u, y)
            store(products, j * width + b * LANES, v)
            store(products, p * width + b * LANES, w)
            store(products, q * width + b * LANES, x)
            store(products, r * width + b * LANES, y)
    if symmetric:
        for j in range(last + 1):
            for i in range(j):
                products[i, j] = products[j, i]


@inlined
def _pose(products, at, coming, base, lengths, u_mean, v_mean, inverse, referred, floor, cost, left, right):
    """The transport problems of one episode's images `coming`, from `base` on in cost [·,m,n], left [·,m], right
    [·,n].

    Their nodes are columns at[b] … of products [J,·]. Returns a sum that is finite only if all problems are.
    """
    m, n, width, way = cost.shape[1], cost.shape[2], products.shape[1], products.shape[0] // cost.shape[1]
    zero, one, seen, dots = splat(np.float32(0)), splat(np.float32(1)), np.float32(0), np.empty(m, np.float32)
    for b in range(len(coming)):
        u_at, u_level = coming[b] * n, np.float32(0)
        for i in range(n):
            u_level += u_mean[u_at + i] / n
        for k in range(way):
            q, v_level = base + b * way + k, np.float32(0)
            dots[:] = 0
            for t in range(0, n, LANES):
                sums, u = zero, load_first(lengths, u_at + t, n - t)
                for j in range(m):
                    x = load_first(products, (k * m + j) * width + at[b] + t, n - t)
                    store_first(cost, (q * m + j) * n + t, n - t, fma(splat(-inverse[k * m + j]), x, one))
                    sums = fma(one, x, sums)
                    dots[j] += summed(fma(x, u, zero))
                seen += summed(sums)
                if referred:
                    store_first(right, q * n + t, n - t, sums)
            for j in range(m):
                v_level += v_mean[k * m + j] / m
                seen += inverse[k * m + j]
            if referred:
                total, other = np.float32(0), np.float32(0)
                for j in range(m):
                    raw = dots[j] / n + u_level * v_mean[k * m + j]
                    left[q, j] = max(raw, np.float32(0)) + floor
                    total += left[q, j]
                    seen += raw
                for i in range(n):
                    raw = right[q, i] / m * lengths[u_at + i] + u_mean[u_at + i] * v_level
                    right[q, i] = max(raw, np.float32(0)) + floor
                    other += right[q, i]
                    seen += raw
                left[q] *= n / total
                right[q] *= n / other
                seen += total + other
    return seen


@compiled
def advance(
    begin,
    end,
    done,
    coming,
    numbers,
    labels,
    state,
    moving,
    table,
    strips,
    products,
    squares,
    inverse,
    lengths,
    u_mean,
    v_mean,
    cost,
    left,
    right,
    flow,
    rows,
    coefs,
    first,
    slopes,
    steps,
    made,
    trees,
    bases,
    given,
    sane,
):
    """Episodes begin … end−1: learn from the flows of the images `done`, then pose the problems of those `coming`."""
    m, n, nodes, gram = cost.shape[1], cost.shape[2], state.shape[1], len(strips) == 0
    momentum, lr, temperature, floor, rate = numbers
    way, each, sums = nodes // m, -(-n // LANES), np.empty((3, nodes))
    done_at = done * n if gram else np.arange(len(done)) * each * LANES
    at = coming * n if gram else np.arange(len(coming)) * each * LANES
    chosen = np.array([p * each + t for p in coming for t in range(each)], np.int64)
    for e in range(begin, end):
        old, base, s = e * len(done) * way, e * len(coming) * way, steps[e]
        if s and (s == KEPT or first[e, s - 1, nodes] + len(done) * nodes * n > rows.shape[1]):
            _flush(rows[e], coefs[e], first[e], slopes[e], s, momentum, lr, made[e])
            s = 0
        if len(done):
            entries, slope = first[e, s], slopes[e, s]
            entries[0] = first[e, s - 1, nodes] if s else 0
            _gradient(
                products[e],
                done_at,
                flow,
                old,
                labels,
                done,
                way,
                temperature,
                rate,
                inverse[e],
                rows[e],
                coefs[e],
                entries,
                slope,
            )
            if gram:
                _meet(state[e], rows[e], coefs[e], entries, sums[0])
                _meet(moving[e], rows[e], coefs[e], entries, sums[1])
            _descend(state[e], moving[e], table[e], rows[e], coefs[e], entries, slope, momentum, lr)
            if gram:
                _meet(moving[e], rows[e], coefs[e], entries, sums[2])
                _lengths(sums[0], sums[1], sums[2], slope, momentum, lr, squares[e])
                s += 1
                if len(coming) == 0:
                    _flush(rows[e], coefs[e], first[e], slopes[e], s, momentum, lr, made[e])
            else:
                for j in range(nodes):
                    total = splat(np.float32(0))
                    for c in range(0, state.shape[2], LANES):
                        x = load(state[e, j], c)
                        total = fma(x, x, total)
                    squares[e, 0, j] = summed(total)
            for b in range(len(done) if len(trees) and len(bases) else 0):
                trees[e, done[b]] = bases[old + b * way : old + (b + 1) * way]
        steps[e] = s
        if len(coming):
            for j in range(nodes):
                inverse[e, j] = 1 / max(np.sqrt(max(squares[e, 0, j], 0.0)), LEAST)
            if not gram:
                multiply(state[e], strips[e], chosen, False, products[e])
            sane[e] = np.isfinite(
                _pose(
                    products[e],
                    at,
                    coming,
                    base,
                    lengths[e],
                    u_mean[e],
                    v_mean[e],
                    inverse[e],
                    floor > 0,
                    np.float32(floor),
                    cost,
                    left,
                    right,
                )
            )
            for b in range(len(coming) if len(trees) else 0):
                given[base + b * way : base + (b + 1) * way] = trees[e, coming[b]]
