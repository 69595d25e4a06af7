"""The iterations of `scaling` on the kernel itself and their reverse, compiled by Numba for the CPU in vectors of
LLVM's.

All iterations of a problem run while its kernel K = exp(−C/ε) lies in the nearest cache, in which it is worked out anew
each time: that costs less than reading it. Of an iteration only the column sums y = Kᵀα are kept, from which the rest
follows: β = d/y, and α = s/x with x = Kβ of the iteration before.

The reverse, with G the gradient of the plan P_ij = α_i K_ij β_j and dots for gradients of the loss: the plan gives

    α̇_i = Σ_j G_ij K_ij β_j    β̇_j = Σ_i G_ij K_ij α_i    K̇_ij = G_ij α_i β_j

and each iteration, last to first, with ẏ_j = −β̇_j β_j / y_j and ẋ_i = −α̇_i α_i / x_i,

    ḋ_j += β̇_j / y_j    α̇_i += Σ_j K_ij ẏ_j    K̇_ij += α_i ẏ_j
    ṡ_i += α̇_i / x_i    β̇_j  = Σ_i K_ij ẋ_i    K̇_ij += ẋ_i β_j    with β of the iteration before; then α̇ = 0

until Ċ = −K̇∘K / ε.
"""

from fewshot_cli.kernels.compile import FLOATS, njit
from fewshot_cli.kernels.vectors import (
    distance,
    div,
    exp,
    fma,
    keep_first,
    lanes_of,
    load,
    load_first,
    mul,
    splat,
    splat_like,
    store,
    store_first,
    summed,
)

compiled = njit(title="Sinkhorn's scaling", **FLOATS)
inlined = njit(forceinline=True, **FLOATS)  # a call would count references to every array

# `problems` is (cost, across, down, −ε, supply, step, demand, step): flat arrays, of cost also how many numbers apart
# columns and rows lie, of supply and demand how many problems do. `room` is (n, matrices [2,m,W], rows [3,W], columns
# [3,m]), with W n filled up to whole vectors; α and ẋ are 0 there, K is 1. `sums` [B,room,m] has those of iteration t
# at t % room.


@inlined
def _exponential(problems, p, n, kernel):
    """kernel [m,W] = exp(−cost/ε) of problem p."""
    cost, across, down, minus_epsilon = problems[0], problems[1], problems[2], splat(problems[3])
    m, width, lanes = kernel.shape[0], kernel.shape[1], lanes_of(kernel)
    if down != 1:
        for j in range(m):
            for i in range(n):
                kernel[j, i] = cost[p * m * n + i * down + j * across]
    for j in range(m):
        for t in range(0, n, lanes):
            z = (
                load_first(cost, p * m * n + j * n + t, n - t)
                if down == 1
                else load_first(kernel, j * width + t, n - t)
            )
            store(kernel, j * width + t, exp(div(z, minus_epsilon)))  # divided as PyTorch does


@inlined
def _beta(problems, p, sums, t, out):
    """out [m] = β of problem p after t iterations, from the column sums of the last."""
    demand, at, slot = problems[6], p * problems[7], (t + sums.shape[1] - 1) % sums.shape[1]
    for j in range(len(out)):
        if t == 0:
            out[j] = 1
        else:
            out[j] = demand[at + j] / sums[p, slot, j]


@inlined
def _alpha(problems, p, n, kernel, b, a):
    """a [W] = α = supply/Kβ of problem p; returns the mean of its distance to what was there."""
    supply, at, width, lanes = problems[4], p * problems[5], kernel.shape[1], lanes_of(kernel)
    zero, one = splat_like(a, 0.0), splat_like(a, 1.0)
    moved = zero
    for t in range(0, n, lanes):
        x = zero
        for j in range(len(b)):
            x = fma(load(kernel, j * width + t), splat(b[j]), x)
        new = keep_first(div(load_first(supply, at + t, n - t), x), n - t)
        moved = fma(distance(new, load(a, t)), one, moved)
        store(a, t, new)
    return summed(moved) / n


@inlined
def _over_rows(kernel, weights, out):
    """out [m] = Σ_i kernel[:,i]·weights[i]."""
    width, lanes = kernel.shape[1], lanes_of(kernel)
    for j in range(len(out)):
        total = splat_like(weights, 0.0)
        for t in range(0, width, lanes):
            total = fma(load(kernel, j * width + t), load(weights, t), total)
        out[j] = summed(total)


@compiled
def advance(begin, end, problems, done, threshold, each, left, sums, change, iterations, room):
    """Run problems begin … end−1, as far as they are `left`, from `done` iterations on, as many as change [·,B] has
    rows.

    sums gets their column sums, change the mean of |α − previous α|. With `each` a problem stops by itself once that is
    below the threshold; iterations [B] then says when.
    """
    n, kernel, a, b, y, demand = room[0], room[1][0], room[2][0], room[3][0], room[3][1], problems[6]
    for p in range(begin, end):
        if not left[p]:
            continue
        _exponential(problems, p, n, kernel)
        a[:] = 0
        a[:n] = 1
        if done:
            _beta(problems, p, sums, done - 1, b)
            _alpha(problems, p, n, kernel, b, a)
        _beta(problems, p, sums, done, b)
        for t in range(done, done + len(change)):
            change[t - done, p] = _alpha(problems, p, n, kernel, b, a)
            _over_rows(kernel, a, y)
            for j in range(len(b)):
                sums[p, t % sums.shape[1], j] = y[j]
                b[j] = demand[p * problems[7] + j] / y[j]
            if each:
                iterations[p] = t + 1
                if not change[t - done, p] >= threshold:
                    left[p] = False
                    break


@compiled
def finish(begin, end, problems, sums, iterations, plan, room):
    """Plans of problems begin … end−1, laid out as their costs."""
    n, kernel, a, b, across, down = room[0], room[1][0], room[2][0], room[3][0], problems[1], problems[2]
    m, width, lanes = kernel.shape[0], kernel.shape[1], lanes_of(kernel)
    for p in range(begin, end):
        _exponential(problems, p, n, kernel)
        _beta(problems, p, sums, iterations[p] - 1, b)
        _alpha(problems, p, n, kernel, b, a)
        _beta(problems, p, sums, iterations[p], b)
        if down == 1:
            for j in range(m):
                for t in range(0, n, lanes):
                    x = mul(mul(load(kernel, j * width + t), load(a, t)), splat(b[j]))
                    store_first(plan, p * m * n + j * n + t, n - t, x)
        else:
            for i in range(n):
                for j in range(m):
                    plan[p * m * n + i * down + j * across] = kernel[j, i] * a[i] * b[j]


@compiled
def reverse(begin, end, problems, sums, iterations, grad, to_cost, to_supply, to_demand, room):
    """Gradients of problems begin … end−1 from those of their plans; `grad` and to_cost are laid out as the costs.

    to_supply [B,n] and to_demand [B,m] hold zeros, or have no rows where they are not wanted.
    """
    n, kernel, to_kernel, a, to_a, to_x = room[0], room[1][0], room[1][1], room[2][0], room[2][1], room[2][2]
    b, to_b, to_y = room[3][0], room[3][1], room[3][2]
    across, down, supply, minus_epsilon = problems[1], problems[2], problems[4], splat(problems[3])
    m, width, lanes = kernel.shape[0], kernel.shape[1], lanes_of(kernel)
    zero, one, minus = splat_like(a, 0.0), splat_like(a, 1.0), splat_like(a, -1.0)
    for p in range(begin, end):
        at, s_at, rounds = p * m * n, p * problems[5], iterations[p]
        _exponential(problems, p, n, kernel)
        _beta(problems, p, sums, rounds - 1, b)
        _alpha(problems, p, n, kernel, b, a)
        _beta(problems, p, sums, rounds, b)
        if down != 1:
            for i in range(n):
                for j in range(m):
                    to_kernel[j, i] = grad[at + i * down + j * across]
        for t in range(0, width, lanes):
            store(to_a, t, zero)
        for j in range(m):
            total, scale = zero, splat(b[j])
            for t in range(0, n, lanes):
                g = (
                    load_first(grad, at + j * n + t, n - t)
                    if down == 1
                    else load_first(to_kernel, j * width + t, n - t)
                )
                x, w = load(a, t), mul(g, load(kernel, j * width + t))
                store(to_a, t, fma(w, scale, load(to_a, t)))
                total = fma(w, x, total)
                store(to_kernel, j * width + t, mul(g, mul(x, scale)))
            to_b[j] = summed(total)
        for r in range(rounds - 1, -1, -1):
            for j in range(m):
                y = sums[p, r % sums.shape[1], j]
                to_y[j] = -(to_b[j] * b[j]) / y
                if len(to_demand):
                    to_demand[p, j] += to_b[j] / y
            _beta(problems, p, sums, r, b)
            for t in range(0, n, lanes):
                x, g = zero, load(to_a, t)
                for j in range(m):
                    k = load(kernel, j * width + t)
                    x, g = fma(k, splat(b[j]), x), fma(k, splat(to_y[j]), g)
                x = div(one, x)
                v = keep_first(mul(load_first(supply, s_at + t, n - t), x), n - t)
                d = keep_first(mul(mul(mul(g, minus), v), x), n - t)
                if len(to_supply):
                    o = p * n + t
                    store_first(to_supply, o, n - t, fma(g, x, load_first(to_supply, o, n - t)))
                store(to_x, t, d)
                store(to_a, t, zero)
                for j in range(m):
                    k = fma(d, splat(b[j]), load(to_kernel, j * width + t))
                    store(to_kernel, j * width + t, fma(v, splat(to_y[j]), k))
            if r:
                _over_rows(kernel, to_x, to_b)
        for j in range(m):
            for t in range(0, n, lanes):
                o = j * width + t
                x = div(mul(load(to_kernel, o), load(kernel, o)), minus_epsilon)
                if down == 1:
                    store_first(to_cost, at + j * n + t, n - t, x)
                else:
                    store(to_kernel, o, x)
        if down != 1:
            for i in range(n):
                for j in range(m):
                    to_cost[at + i * down + j * across] = to_kernel[j, i]
