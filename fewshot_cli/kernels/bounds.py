"""What `facts`, `certificate` and `gradient` compute of each problem, compiled for the CPU by Numba."""

import numpy as np

from fewshot_cli.kernels import certificate, vectors
from fewshot_cli.kernels.compile import FLOATS, njit

RARE = certificate.RARE
within = njit(forceinline=True)(certificate.within)


@njit(title="the check of problems", error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
def facts_range(cost, supply, demand, tolerance, begin, end):
    """Of problems begin … end−1: whether a number is not finite, and the other `facts.Facts`."""
    costs, lanes = cost.reshape(-1), vectors.lanes_of(cost)
    none = vectors.splat_like(costs, 0.0)
    most, poison = none, none  # zero times what is not finite is NaN, and stays so in a sum
    size = cost.shape[1] * cost.shape[2]
    for t in range(begin * size, end * size, lanes):
        left = end * size - t
        x = vectors.load(costs, t) if left >= lanes else vectors.load_first(costs, t, left)
        most, poison = vectors.greater(vectors.distance(x, none), most), vectors.fma(x, none, poison)
    largest, bad = 0.0, np.float64(vectors.summed(poison)) != 0.0
    ends = np.empty(lanes, cost.dtype)
    vectors.store(ends, 0, most)
    for k in range(lanes):
        largest = max(largest, np.float64(ends[k]))
    lightest, heaviest, least, excess, wrong = np.inf, 0.0, np.inf, -np.inf, 0.0
    for b in range(begin, end):
        mass, other = 0.0, 0.0
        for i in range(cost.shape[1]):
            x = np.float64(supply[b, i])
            mass, least, wrong = mass + x, min(least, x), wrong + 0.0 * x
        for j in range(cost.shape[2]):
            x = np.float64(demand[b, j])
            other, least, wrong = other + x, min(least, x), wrong + 0.0 * x
        lightest, heaviest = min(lightest, mass), max(heaviest, mass)
        apart = abs(mass - other) - tolerance * max(mass, other)
        excess = apart if not apart <= excess else excess  # NaN, of infinite totals, is more than any
    return bad or wrong != 0.0, largest, lightest, heaviest, least, excess


@njit(title="the gradient of values", **FLOATS)
def gradient_range(grad, flow, supply_price, demand_price, d_cost, d_supply, d_demand, begin, end):
    """Of problems begin … end−1: the gradients of `gradient.of_plans`, into the arrays d_…, but an empty one."""
    n, m = flow.shape[1:]
    for b in range(begin, end):
        factor = grad[b]
        if len(d_cost):
            for i in range(n):
                for j in range(m):
                    d_cost[b, i, j] = factor * flow[b, i, j]
        if len(d_supply):
            supply_mean, demand_mean = 0.0, 0.0
            for i in range(n):
                supply_mean += np.float64(supply_price[b, i])
            for j in range(m):
                demand_mean += np.float64(demand_price[b, j])
            shift = (demand_mean / m - supply_mean / n) / 2
            for i in range(n):
                d_supply[b, i] = factor * (supply_price[b, i] + shift)
            for j in range(m):
                d_demand[b, j] = factor * (demand_price[b, j] - shift)


@njit(title="the certificate of optimality", error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
def certify_range(cost, supply, demand, flow, given, known, value, marginal, bit, gaps, fine, worths, begin, end):
    """Of problems begin … end−1: gaps [B], relative to mass · largest |cost| that matters, fine [B] by `within`, and
    worths [B], what the flows cost.

    given [B,n] are supply prices, if `known`; else flows of at most `value` of the mass, shared out over the nodes,
    are taken for none.
    """
    n, m = cost.shape[1:]
    costs, flows, supplies, demands, prices = (
        cost.reshape(-1),
        flow.reshape(-1),
        supply.reshape(-1),
        demand.reshape(-1),
        given.reshape(-1),
    )
    lanes = vectors.lanes_of(costs)
    wide, path, found = np.empty(n), np.empty(m), np.empty(n, cost.dtype)
    rows, ends = np.empty(lanes * n, cost.dtype), np.empty(4 * lanes, cost.dtype)
    none = vectors.splat_like(costs, 0.0)
    for b in range(begin, end):
        base, u, at = b * n * m, prices, b * n
        if not known:
            mass = 0.0
            for i in range(n):
                mass += supply[b, i]
            shortest(cost[b], flow[b], value * mass / (n + m), largest(cost[b]), wide, path)
            found[:], u, at = wide, found, 0
        least, most, off, price, shipped, wanted, dual, primal = none, none, none, none, none, none, none, 0.0
        for t in range(0, m, lanes):
            left, low, column, worth = m - t, vectors.splat_like(costs, np.inf), none, none
            for i in range(n):
                place = base + i * m + t
                if left >= lanes:
                    c, x = vectors.load(costs, place), vectors.load(flows, place)
                else:
                    c, x = vectors.load_first(costs, place, left), vectors.load_first(flows, place, left)
                low = vectors.lesser(vectors.sub(c, vectors.splat_like(costs, np.float64(u[at + i]))), low)
                most = vectors.greater(vectors.distance(c, none), most)
                least = vectors.lesser(x, least)
                worth = vectors.fma(c, x, worth)
                column = vectors.add(column, x)
                vectors.store(rows, lanes * i, vectors.add(vectors.load(rows, lanes * i), x) if t else x)
            primal += vectors.summed(worth)
            d = vectors.load_first(demands, b * m + t, min(left, lanes))
            wanted, dual = vectors.add(wanted, d), vectors.fma(low, d, dual)
            off = vectors.greater(vectors.distance(column, d), off)
            price = vectors.greater(vectors.distance(vectors.keep_first(low, min(left, lanes)), none), price)
        worst = 0.0
        for i in range(n):
            apart = abs(vectors.summed(vectors.load(rows, lanes * i)) - np.float64(supply[b, i]))
            worst = apart if apart > worst else worst
        for t in range(0, n, lanes):
            left = min(n - t, lanes)
            s, mine = vectors.load_first(supplies, b * n + t, left), vectors.load_first(u, at + t, left)
            shipped, dual = vectors.add(shipped, s), vectors.fma(mine, s, dual)
            price = vectors.greater(vectors.distance(mine, none), price)
        worths[b] = primal
        mass, other = np.float64(vectors.summed(shipped)), np.float64(vectors.summed(wanted))
        if mass <= 0.0:
            gaps[b], fine[b] = 0.0, True
            continue
        for k, x in enumerate((least, most, off, price)):
            vectors.store(ends, k * lanes, x)
        top, dear = 0.0, 0.0
        for k in range(lanes):
            worst = max(worst, -ends[k], ends[2 * lanes + k])
            top, dear = max(top, ends[lanes + k]), max(dear, ends[3 * lanes + k])
        top = top if top > 0.0 else 1.0
        gaps[b] = (primal - vectors.summed(dual)) / mass / top
        if abs(primal) < RARE * mass * top:
            gaps[b], dear = sharper(cost[b], flow[b], supply[b], demand[b], value, top, wide, path)
            top = 1.0
        fine[b] = within(gaps[b], worst / mass, abs(mass - other) / mass, dear / top, value, marginal, bit)


@njit(**FLOATS)
def largest(cost):
    """The largest |cost|."""
    top = 0.0
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            top = max(top, abs(np.float64(cost[i, j])))
    return top


@njit(**FLOATS)
def sharper(cost, flow, supply, demand, value, top, u, v):
    """The gap of one plan, and its largest price, relative to the costs that matter: see `certificate.mattering`."""
    n, m = cost.shape
    mass, primal, dual, paid, price = 0.0, 0.0, 0.0, 0.0, 0.0
    second = np.empty(n)
    for i in range(n):
        mass += np.float64(supply[i])
    for i in range(n):
        low, next_low = np.inf, np.inf
        for j in range(m):
            x = abs(np.float64(cost[i, j]))
            primal += np.float64(cost[i, j]) * np.float64(flow[i, j])
            if flow[i, j] > value * mass / (n + m):
                paid = max(paid, x)
            next_low = min(next_low, max(low, x))
            low = min(low, x)
        second[i] = next_low if m > 1 else low
    scale = max(paid, np.sort(second)[(n - 1) // 2])
    scale = scale if scale > 0.0 else top
    shortest(cost, flow, value * mass / (n + m), scale, u, v)
    for i in range(n):
        dual += u[i] * np.float64(supply[i])
        price = max(price, abs(u[i]))
    for j in range(m):
        low = np.inf
        for i in range(n):
            low = min(low, np.float64(cost[i, j]) - u[i])
        dual += low * np.float64(demand[j])
        price = max(price, abs(low))
    return (primal - dual) / mass / scale, price / scale


@njit(**FLOATS)
def shortest(cost, flow, least, top, u, v):
    """Supply prices u [n] under which no arc of a plan costs more than its ends' prices, if there are any.

    Rounds of Bellman and Ford over all arcs forwards and those that ship more than `least` backwards, at most n + m of
    them, until none changes a price by more than rounding makes of costs of `top`. v [m] is scratch.
    """
    n, m = cost.shape
    v[:] = 0.0
    enough = 1e-13 * top  # what rounding makes of a cycle that costs nothing
    for _ in range(n + m):
        for i in range(n):
            low = np.inf
            for j in range(m):
                reach = np.float64(cost[i, j]) - v[j]
                low = reach if reach < low else low
            u[i] = low
        changed = False
        for i in range(n):
            for j in range(m):
                if flow[i, j] > least:
                    need = np.float64(cost[i, j]) - u[i]
                    if need > v[j] + enough:
                        v[j] = need
                        changed = True
        if not changed:
            return
