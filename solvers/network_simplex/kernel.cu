// The network simplex of kernel.py for a group of lanes: a warp or a block on a GPU, one lane as C++.
//
// The same integers decide: costs of 2^-38 of the largest, masses of 2^-48 of the total, perturbed so that no pivot is
// degenerate. What a CPU walks along the tree, lanes read off the sets: node x is on the cycle where its set holds one
// end of the entering arc and not the other. A block solves a problem. Compiled by NVRTC with its LANES, -DCOST=float or
// double, and, where sizes are few, with -DROWS, -DCOLUMNS, -DTREE_BYTES and -DNEAR_BYTES, so that loops, addresses and
// what lies in shared memory are known.

#include "lanes.cuh"

typedef long long wide;
typedef unsigned long long set;

#define COST_BITS 38
#define MASS_BITS 48
#define PERTURB_BITS 12
#define NOTHING 4      // units of mass and less are rounding, which would go over any arc, however dear
#define NEAR_BITS 22   // of the costs that the pricing looks at first
#define PRICE_BITS 24  // and of the prices
#define ROW_BITS 5
#define BLOCK 32       // rows priced together
#define BIG (1 << 30)
#define FAR (1LL << 62)
#define ENDLESS (2 * 1e308)  // infinity
#define COLUMN 2047    // low bits of a row's cached minimum
#if defined(ROWS) && LANES == 32 && ROWS + COLUMNS <= 128
#define NARROW  // what a lane keeps of its own rows and nodes fits its registers
#define SHORTER (ROWS < COLUMNS ? ROWS : COLUMNS)
#define EACH_OF(count) (((count) + LANES - 1) / LANES)  // a lane's share
#define WORDS ((ROWS + COLUMNS + 63) / 64)
#endif

// One problem with n <= m; (i, j) of the caller's arrays is at i * row_step + j * column_step.
struct Problem {
    const COST *cost, *supply, *demand;
    COST *flow_out;
    int n, m, words, row_step, column_step;
    double scale;               // integers to a unit of cost
    int drop;                   // low bits that near leaves out
    wide *flow, *price, *mean;  // [nodes]; price holds the masses until the start has used them
    set *sub;                   // [nodes * words]
    int *parent, *near_price;   // [nodes]; near_price holds the order of the start until it is done
    int *near;                  // [n * m]; the costs themselves until their top bits are known
#ifndef NARROW
    wide *new_flow;             // [nodes]
    set *new_sub;               // [nodes * words]
    int *heir;                  // [nodes]
    int *row_key, *gone;        // [n], [m]
#endif
};

GROUP wide cell(const Problem &p, int i, int j) { return llrint(p.cost[i * p.row_step + j * p.column_step] * p.scale); }

// Costs that are as wide as their top bits lie where these will be, until they are known: read along rows, the caller's
// array would take a transaction for each lane.
GROUP void stage(const Problem &p, int place, COST x) {
    if (sizeof(COST) == sizeof(int)) memcpy(p.near + place, &x, sizeof(int));
}

GROUP wide staged(const Problem &p, int i, int j) {
    COST x = 0;
    if (sizeof(COST) != sizeof(int)) return cell(p, i, j);
    memcpy(&x, p.near + i * p.m + j, sizeof(int));
    return llrint(x * p.scale);
}

GROUP wide centred(const Problem &p, int i, int j) { return cell(p, i, j) - p.mean[i] - p.mean[p.n + j]; }

GROUP wide reduced_cost(const Problem &p, int i, int j) { return centred(p, i, j) - p.price[i] + p.price[p.n + j]; }

GROUP bool holds(const Problem &p, int x, int y) { return p.sub[x * p.words + (y >> 6)] >> (y & 63) & 1; }

GROUP void set_near_price(const Problem &p, int x) {
    wide high = 1LL << (PRICE_BITS + p.drop), price = p.price[x];
    price = price > high ? high : price < -high ? -high : price;
    p.near_price[x] = (int)(price >> p.drop) * (1 << ROW_BITS);
}

// Integer masses of one side, at least one unit each, into p.price[first:]; returns their sum, and the largest's place.
GROUP wide masses(const Problem &p, const COST *given, int first, int count, double unit, int &top) {
    wide total = 0, largest = FAR;
    top = 0;
    EACH(k, count) {
        wide units = llrint(given[k] * unit);
        units = units < 1 ? 1 : units;
        p.price[first + k] = units;
        total += units;
        if (-units < largest) largest = -units, top = k;
    }
    argmin(largest, top);
    return sum(total);
}

// The heavier side gives up `gap` units in proportion, the remainder from its largest node.
GROUP void take(const Problem &p, int first, int count, wide gap, wide total, int top) {
    wide given = 0;
    EACH(k, count) {
        wide units = p.price[first + k], part = (wide)(units * ((double)gap / (double)total));
        part = part < units ? part : units - 1;
        p.price[first + k] = units - part;
        given += part;
    }
    given = sum(given);
    fence();
    if (lane() == 0) p.price[first + top] -= gap - given;
    fence();
}

GROUP void prepare_masses(const Problem &p, double unit) {
    int top, other;
    wide supply = masses(p, p.supply, 0, p.n, unit, top), demand = masses(p, p.demand, p.n, p.m, unit, other);
    fence();
    if (supply > demand) take(p, 0, p.n, supply - demand, supply, top);
    if (demand > supply) take(p, p.n, p.m, demand - supply, demand, other);
    EACH(x, p.n + p.m) {
        wide units = p.price[x] * (1LL << PERTURB_BITS);
        p.price[x] = x >= p.n ? units - 1 : x == top ? units + 1 - (p.n + p.m) : units + 1;
    }
}

// Double-centre the costs and keep their top bits; returns how many low bits these leave out.
GROUP int prepare_costs(Problem &p) {
    int n = p.n, m = p.m;
    wide top = 0;
    EACH(i, n) {
        wide total = 0;
        for (int t = 0, j = i % m; t < m; t++, j = j + 1 < m ? j + 1 : 0) total += staged(p, i, j);
        p.mean[i] = total / m;
    }
    fence();
    EACH(j, m) {
        wide total = 0;
        for (int i = 0; i < n; i++) total += staged(p, i, j) - p.mean[i];
        p.mean[n + j] = total / n;
    }
    fence();
    EACH(k, n * m) {
        wide x = staged(p, k / m, k % m) - p.mean[k / m] - p.mean[n + k % m];
        x = x < 0 ? ~x : x;
        top = x > top ? x : top;
    }
    top = -reduce_min(-top);
    int drop = 0;
    while (top >> drop >> NEAR_BITS) drop++;
    EACH(k, n * m) {
        wide x = staged(p, k / m, k % m) - p.mean[k / m] - p.mean[n + k % m];
        p.near[k] = (int)(x >> drop) * (1 << ROW_BITS) | (k / m & (BLOCK - 1));
    }
    return drop;
}

// The rows' cheapest columns as the start knows them, each cached as cost and column, and the columns that are gone.
#ifdef NARROW
struct Minima {
    int key[EACH_OF(SHORTER)];
    set gone[WORDS];
};
GROUP Minima no_minima(const Problem &) {
    Minima minima;
    for (int &key : minima.key) key = BIG + COLUMN + 1;
    for (set &gone : minima.gone) gone = 0;
    return minima;
}
GROUP bool is_gone(const Problem &, const Minima &minima, int j) { return minima.gone[j >= 64 ? WORDS - 1 : 0] >> (j & 63) & 1; }
GROUP void cache(const Problem &, Minima &minima, int i, int key) {
    for (int k = 0; k < EACH_OF(SHORTER); k++) minima.key[k] = lane() + k * LANES == i ? key : minima.key[k];
}
GROUP void let_go(const Problem &, Minima &minima, int j) {
    for (int w = 0; w < WORDS; w++) minima.gone[w] |= j >> 6 == w ? 1ULL << (j & 63) : 0;
}
GROUP int least(const Problem &, const Minima &minima, int &i) {
    int low = minima.key[0];
    i = lane();
    for (int k = 1; k < EACH_OF(SHORTER); k++) if (minima.key[k] < low) low = minima.key[k], i = lane() + k * LANES;
    return argmin(low, i);
}
#else
struct Minima {};
GROUP Minima no_minima(const Problem &p) {
    EACH(j, p.m) p.gone[j] = 0;
    return {};
}
GROUP bool is_gone(const Problem &p, const Minima &, int j) { return p.gone[j]; }
GROUP void cache(const Problem &p, Minima &, int i, int key) {
    if (lane() == 0) p.row_key[i] = key;
}
GROUP void let_go(const Problem &p, Minima &, int j) {
    if (lane() == 0) p.gone[j] = 1;
}
GROUP int least(const Problem &p, const Minima &, int &i) {
    int low = BIG + COLUMN + 1;
    i = 0;
    EACH(k, p.n) if (p.row_key[k] < low) low = p.row_key[k], i = k;
    return argmin(low, i);
}
#endif

GROUP int row_minimum(const Problem &p, const Minima &minima, int i) {
    int low = BIG;
    EACH(j, p.m) {
        int key = is_gone(p, minima, j) ? BIG : (p.near[i * p.m + j] & ~COLUMN) | j;
        low = key < low ? key : low;
    }
    return reduce_min(low);
}

// Matrix-minimum basis; see tree.start. Returns the root.
GROUP int start(const Problem &p) {
    int n = p.n, m = p.m, words = p.words, rows = n, columns = m, root = 0, *order = p.near_price;
    wide *mass = p.price;
    EACH(x, n + m) for (int w = 0; w < words; w++) p.sub[x * words + w] = x >> 6 == w ? 1ULL << (x & 63) : 0;
    Minima minima = no_minima(p);
    fence();
    for (int i = 0; i < n; i++) cache(p, minima, i, row_minimum(p, minima, i));
    fence();
    for (int step = 0; step < n + m - 1; step++) {
        int i, j;
        while (true) {  // a cached minimum is a lower bound: it holds while its column is there
            j = least(p, minima, i) & COLUMN;
            if (!is_gone(p, minima, j)) break;
            int key = row_minimum(p, minima, i);
            fence();
            cache(p, minima, i, key);
            fence();
        }
        wide row_mass = mass[i], column_mass = mass[n + j], push = row_mass < column_mass ? row_mass : column_mass;
        bool row_out = columns == 1 || (row_mass == push && rows > 1);
        int out = row_out ? i : n + j;
        root = row_out ? n + j : i;
        fence();
        if (row_out) cache(p, minima, i, BIG + COLUMN);
        else let_go(p, minima, j);
        if (lane() == 0) {
            mass[i] = row_mass - push;
            mass[n + j] = column_mass - push;
            p.parent[out] = root;
            p.flow[out] = push;
            order[step] = out;
            for (int w = 0; w < words; w++) p.sub[root * words + w] |= p.sub[out * words + w];
        }
        row_out ? rows-- : columns--;
        fence();
    }
    EACH(x, n + m) if (x != root) {
        int up = p.parent[x];
        p.price[x] = x < n ? centred(p, x, up - n) : -centred(p, up, x - n);
    }
    fence();
    if (lane() == 0) {
        p.parent[root] = -1;
        p.price[root] = 0;
        for (int k = n + m - 2; k >= 0; k--) p.price[order[k]] += p.price[p.parent[order[k]]];
    }
    fence();
    EACH(x, n + m) set_near_price(p, x);
    fence();
    return root;
}

// The most negative reduced cost, to NEAR_BITS, in the first block of rows from `first` that has one; false if none has.
GROUP bool entering(const Problem &p, int &row, int &column, int &first) {
    int n = p.n, m = p.m;
    for (int seen = 0; seen < n;) {
        int stop = first + BLOCK < n ? first + BLOCK : n, least = -3 * (1 << ROW_BITS), from = first;
        column = -1;
        EACH(j, m) {
            int best = 2147483647;
            for (int i = from; i < stop; i++) {
                int x = p.near[i * m + j] - p.near_price[i];
                best = x < best ? x : best;
            }
            best += p.near_price[n + j];
            if (best < least) least = best, column = j;
        }
        least = argmin(least, column);
        seen += stop - from;
        first = stop < n ? stop : 0;
        if (least < -3 * (1 << ROW_BITS)) {
            row = from + (least & (BLOCK - 1));
            return true;
        }
    }
    return false;
}

// The most negative reduced cost of all, in all bits; false when the basis is optimal.
GROUP bool entering_exactly(const Problem &p, int &row, int &column) {
    wide least = 0;
    int place = 0;
    EACH(k, p.n * p.m) {
        wide x = reduced_cost(p, k / p.m, k % p.m);
        if (x < least) least = x, place = k;
    }
    least = argmin(least, place);
    row = place / p.m;
    column = place % p.m;
    return least < 0;
}

// What a lane notes of its own nodes between the two halves of a pivot: in registers where it has few, else beside the tree.
#ifdef NARROW
struct Notes {
    int heir[EACH_OF(ROWS + COLUMNS)];
    wide flow[EACH_OF(ROWS + COLUMNS)];
    set sub[EACH_OF(ROWS + COLUMNS) * WORDS];
};
#define NOTES(p) Notes notes
#define NOTE(k, x) k
#else
#define NOTES(p) const Notes notes = {p.heir, p.new_flow, p.new_sub}
#define NOTE(k, x) x
struct Notes {
    int *heir;
    wide *flow;
    set *sub;
};
#endif

// Bring (row, column) into the tree; see tree.pivot. What each node on the cycle passes on, to itself or,
// where the path turns round, to its parent, is noted first and written when all have read.
GROUP void pivot(const Problem &p, int row, int column) {
    int n = p.n, nodes = n + p.m, words = p.words, head = n + column, leave = 0;
    wide push = FAR, reduced = reduced_cost(p, row, column);
    EACH(x, nodes) {
        bool over_head = holds(p, x, head), over_tail = holds(p, x, row);
        // from either end of the entering arc the first arc falls, and rows and columns alternate
        if (over_head != over_tail && over_head == (x >= n) && p.flow[x] < push) push = p.flow[x], leave = x;
    }
    push = argmin(push, leave);
    fence();
    bool from_head = holds(p, leave, head);
    int inner = from_head ? head : row, outer = from_head ? row : head;
    const set *moved = p.sub + leave * words;
    NOTES(p);
    OWN(k, x, nodes) {
        bool over_inner = holds(p, x, inner), below = holds(p, leave, x);
        notes.heir[NOTE(k, x)] = -1;
        if (over_inner != holds(p, x, outer)) {
            bool turned = over_inner && below, falls = (x >= n) == (over_inner == from_head);
            notes.heir[NOTE(k, x)] = x == leave ? inner : turned ? p.parent[x] : x;
            notes.flow[NOTE(k, x)] = x == leave ? push : falls ? p.flow[x] - push : p.flow[x] + push;
            for (int w = 0; w < words; w++) {
                set own = p.sub[x * words + w];
                notes.sub[NOTE(k, x) * words + w] =
                    x == leave ? own : turned ? moved[w] & ~own : over_inner ? own & ~moved[w] : own | moved[w];
            }
        }
        if (below) {
            p.price[x] += from_head ? -reduced : reduced;
            set_near_price(p, x);
        }
    }
    fence();
    OWN(k, x, nodes) {
        int heir = notes.heir[NOTE(k, x)];
        if (heir < 0) continue;
        p.flow[heir] = notes.flow[NOTE(k, x)];
        for (int w = 0; w < words; w++) p.sub[heir * words + w] = notes.sub[NOTE(k, x) * words + w];
        if (x == leave) p.parent[heir] = outer;
        else if (heir != x) p.parent[heir] = x;
    }
    fence();
}

// Solve one problem; u and v are its prices. Returns pivots, or -1 - pivots when they ran out.
GROUP wide solve_problem(Problem &p, COST *u, COST *v) {
    int n = p.n, m = p.m;
    double total = 0, top = 0, low = 1e300;
    EACH(i, n) total += p.supply[i];
    EACH(j, m) if (!(p.demand[j] - p.demand[j] == 0)) top = ENDLESS;
    EACH(k, n * m) {
        double x = p.cost[k / m * p.row_step + k % m * p.column_step];
        stage(p, k, (COST)x);
        top = x > top ? x : -x > top ? -x : x - x == 0 ? top : ENDLESS;
        low = x < low ? x : low;
    }
    total = sum(total);
    top = -reduce_min(-top);
    low = reduce_min(low);
    if (!(top < ENDLESS) || !(total - total == 0)) {  // no optimum, and pivots without end
        EACH(i, n) u[i] = 0;
        EACH(j, m) v[j] = 0;
        return -1;
    }
    if (!(total > 0)) {  // nothing to ship; zero prices are dual feasible only below the cheapest arc
        EACH(i, n) u[i] = (COST)low;
        EACH(j, m) v[j] = 0;
        return 0;
    }
    int mass_bits = MASS_BITS - 1 - ilogb(total), cost_bits = top > 0 ? COST_BITS - 1 - ilogb(top) : 0;
    mass_bits = mass_bits < 1000 ? mass_bits : 1000;
    cost_bits = cost_bits < 900 ? cost_bits : 900;
    p.scale = ldexp(1.0, cost_bits);
    prepare_masses(p, ldexp(1.0, mass_bits));
    p.drop = prepare_costs(p);
    int root = start(p), row, column, first = 0;
    wide pivots = 0, limit = 1000LL * (n + m);
    bool done = false;
    while (!done && pivots < limit) {
        if (!entering(p, row, column, first) || reduced_cost(p, row, column) >= 0) done = !entering_exactly(p, row, column);
        if (!done) pivot(p, row, column), pivots++;
    }
    double unit = ldexp(1.0, -mass_bits), step = ldexp(1.0, -cost_bits);
    EACH(x, n + m) if (x != root) {
        int i = x < n ? x : p.parent[x], j = (x < n ? p.parent[x] : x) - n;
        wide units = (p.flow[x] + (1LL << (PERTURB_BITS - 1))) >> PERTURB_BITS;
        if (units <= NOTHING) units = 0;
        p.flow_out[i * p.row_step + j * p.column_step] = (COST)(units * unit);
    }
    EACH(i, n) u[i] = (COST)((p.price[i] + p.mean[i]) * step);
    EACH(j, m) v[j] = (COST)((p.mean[n + j] - p.price[n + j]) * step);
    return done ? pivots : -1 - pivots;
}

// Lay out a problem's memory: the tree at `tree`, the costs' top bits at `near`.
GROUP void lay_out(Problem &p, char *tree, int *near) {
    int nodes = p.n + p.m;
    p.flow = (wide *)tree;
    p.price = p.flow + nodes;
    p.mean = p.price + nodes;
    p.sub = (set *)(p.mean + nodes);
    p.parent = (int *)(p.sub + nodes * p.words);
    p.near_price = p.parent + nodes;
    p.near = near;
#ifndef NARROW
    p.new_flow = (wide *)(p.near_price + nodes);
    p.new_sub = (set *)(p.new_flow + nodes);
    p.heir = (int *)(p.new_sub + nodes * p.words);
    p.row_key = p.heir + nodes;
    p.gone = p.row_key + p.n;
#endif
}

// Bytes of a tree, as lay_out needs them; a multiple of 8.
#ifdef NARROW
#define TREE_SIZE(nodes) ((size_t)(nodes) * (32 + 8 * (((nodes) + 63) / 64)))
#else
#define TREE_SIZE(nodes) ((size_t)(nodes) * (48 + 16 * (((nodes) + 63) / 64)))
#endif

// cost [B,rows,columns], supply [B,rows], demand [B,columns], all contiguous; flow zero on entry.
GROUP void solve_one(int b, const COST *cost, const COST *supply, const COST *demand, COST *flow, COST *supply_price,
                     COST *demand_price, wide *iterations, bool *converged, int rows, int columns, char *tree, int *near) {
    Problem p;
    bool swap = rows > columns;  // the longer side lies along the lanes
    const COST *s = supply + (wide)b * rows, *d = demand + (wide)b * columns;
    COST *u = supply_price + (wide)b * rows, *v = demand_price + (wide)b * columns;
    p.cost = cost + (wide)b * rows * columns;
    p.flow_out = flow + (wide)b * rows * columns;
    p.supply = swap ? d : s;
    p.demand = swap ? s : d;
    p.n = swap ? columns : rows;
    p.m = swap ? rows : columns;
    p.row_step = swap ? 1 : columns;
    p.column_step = swap ? columns : 1;
    p.words = (rows + columns + 63) / 64;
    lay_out(p, tree, near);
    wide pivots = solve_problem(p, swap ? v : u, swap ? u : v);
    if (lane() == 0) {
        iterations[b] = pivots < 0 ? -1 - pivots : pivots;
        converged[b] = pivots >= 0;
    }
}

#ifdef __CUDACC__
// Shared memory holds the tree and the costs' top bits, or what does not fit lies in `workspace`, a slot a block.
extern "C" __global__ void solve(const COST *cost, const COST *supply, const COST *demand, COST *flow, COST *supply_price,
                                 COST *demand_price, wide *iterations, bool *converged, int batch, int rows, int columns,
                                 char *workspace, wide slot_bytes, int tree_bytes, int near_bytes) {
    extern __shared__ __align__(16) char shared[];
#ifdef ROWS
    rows = ROWS, columns = COLUMNS, tree_bytes = TREE_BYTES, near_bytes = NEAR_BYTES;
#endif
    char *slot = workspace + (wide)blockIdx.x * slot_bytes;
    char *tree = tree_bytes ? shared : slot;
    int *near = (int *)(near_bytes ? shared + tree_bytes : slot + (tree_bytes ? 0 : TREE_SIZE(rows + columns)));
    for (int b = blockIdx.x; b < batch; b += gridDim.x) {
        solve_one(b, cost, supply, demand, flow, supply_price, demand_price, iterations, converged, rows, columns, tree, near);
        fence();
    }
}
#else
extern "C" void solve(const COST *cost, const COST *supply, const COST *demand, COST *flow, COST *supply_price,
                      COST *demand_price, wide *iterations, bool *converged, int batch, int rows, int columns) {
    int nodes = rows + columns;
    char *tree = (char *)malloc(TREE_SIZE(nodes));
    int *near = (int *)malloc(sizeof(int) * rows * columns);
    for (int b = 0; b < batch; b++)
        solve_one(b, cost, supply, demand, flow, supply_price, demand_price, iterations, converged, rows, columns, tree, near);
    free(tree);
    free(near);
}
#endif
