// What is checked of transport problems on a GPU, and how far their plans can be from the optimum: a pass over the
// numbers each, where whole tensors would take twenty. See facts.py and certificate.py, which say the same in tensors.
// Compiled by NVRTC with its LANES and -DCOST=float or double, or as C++ with one lane.

#include "lanes.cuh"

typedef long long wide;

#define FACTS 6       // numbers in a row of facts
#define RARE 1e-3     // see certificate.RARE
#define LOTS 1e300

GROUP double larger(double a, double b) { return a > b ? a : b; }
GROUP double largest(double x) { return -reduce_min(-x); }
GROUP double size_of(COST x) { return x < 0 ? -(double)x : (double)x; }
GROUP bool is_finite(double x) { return x - x == 0; }

// Facts of a block's share of a batch, each such that the largest over all blocks is the batch's: whether a number is not
// finite, the largest |cost|, minus the smallest and the largest total supply, minus the least mass, and the largest excess
// of a difference of totals over the tolerance.
GROUP void look(wide block, wide blocks, const COST *cost, const COST *supply, const COST *demand, wide batch, int n, int m,
                double tolerance, double *out) {
    double bad = 0, high = 0, light = -LOTS, heavy = -LOTS, least = -LOTS, excess = -LOTS;
    for (wide k = block * LANES + lane(); k < batch * n * m; k += blocks * LANES) {
        double x = size_of(cost[k]);
        if (!is_finite(x)) bad = 1;
        high = larger(x, high);
    }
    for (wide b = block; b < batch; b += blocks) {
        double total = 0, other = 0;
        EACH(i, n) total += supply[b * n + i], least = larger(-(double)supply[b * n + i], least);
        EACH(j, m) other += demand[b * m + j], least = larger(-(double)demand[b * m + j], least);
        total = sum(total), other = sum(other);
        double difference = total > other ? total - other : other - total;
        if (!is_finite(total) || !is_finite(other)) bad = 1;
        light = larger(-total, light);
        heavy = larger(total, heavy);
        excess = larger(difference - tolerance * larger(total, other), excess);
    }
    double facts[FACTS] = {largest(bad), largest(high), largest(light), largest(heavy), largest(least), largest(excess)};
    if (lane() == 0)
        for (int k = 0; k < FACTS; k++) out[block * FACTS + k] = facts[k];
}

// The largest |cost| that matters to a plan; see certificate.mattering. `second` has room for n numbers.
GROUP double mattering(const COST *cost, const COST *flow, int n, int m, double least, double top, double *second) {
    double paid = 0, middle = 0;
    EACH(k, n * m) if (flow[k] > least) paid = larger(size_of(cost[k]), paid);
    EACH(i, n) {
        double low = LOTS, next = LOTS;
        for (int j = 0; j < m; j++) {
            double x = size_of(cost[i * m + j]);
            if (x < low) next = low, low = x;
            else if (x < next) next = x;
        }
        second[i] = m > 1 ? next : low;
    }
    fence();
    EACH(i, n) {
        int before = 0;
        for (int k = 0; k < n; k++) before += second[k] < second[i] || (second[k] == second[i] && k < i);
        if (before == (n + 1) / 2 - 1) middle = second[i];
    }
    double scale = largest(larger(paid, middle));
    return scale > 0 ? scale : top;
}

// A plan's gap relative to mass and costs, whether it is within the tolerances, and its value; see certificate.within.
GROUP void prove(wide b, const COST *cost, const COST *supply, const COST *demand, const COST *flow, const COST *price, int n,
                 int m, double near, double marginal, double bit, double *gap, bool *fine, COST *value, double *second) {
    double mass = 0, other = 0, primal = 0, dual = 0, top = 0, off = 0, high = 0;
    cost += b * n * m, flow += b * n * m, supply += b * n, price += b * n, demand += b * m;
    EACH(j, m) {
        double column = 0;
        COST low = cost[j] - price[0];
        for (int i = 0; i < n; i++) {
            COST c = cost[i * m + j], x = flow[i * m + j], paid = c * x, least = c - price[i];
            low = least < low ? least : low;
            column += x, primal += paid;
            top = larger(size_of(c), top), off = larger(-(double)x, off);
        }
        other += demand[j], dual += (double)low * demand[j];
        column -= demand[j];
        off = larger(column < 0 ? -column : column, off), high = larger(size_of(low), high);
    }
    EACH(i, n) {
        double row = 0;
        for (int j = 0; j < m; j++) row += flow[i * m + j];
        mass += supply[i], dual += (double)price[i] * supply[i];
        row -= supply[i];
        off = larger(row < 0 ? -row : row, off), high = larger(size_of(price[i]), high);
    }
    mass = sum(mass), other = sum(other), primal = sum(primal), dual = sum(dual);
    top = largest(top), off = largest(off), high = largest(high);
    top = top > 0 ? top : 1;
    if ((primal < 0 ? -primal : primal) < RARE * mass * top) top = mattering(cost, flow, n, m, near * mass / (n + m), top, second);
    double apart = (mass > other ? mass - other : other - mass) / mass, prices = high / top;
    double relative = mass > 0 ? (primal - dual) / mass / top : 0;
    double slack = bit * (1 + prices) + apart * (2 + prices);
    bool within = (relative < 0 ? -relative : relative) <= near + slack && off / mass <= marginal + bit + 2 * apart;
    if (lane() == 0) {
        gap[b] = relative;
        fine[b] = within || mass <= 0;
        value[b] = (COST)primal;
    }
}

#ifdef __CUDACC__
extern "C" __global__ void facts(const COST *cost, const COST *supply, const COST *demand, wide batch, int n, int m,
                                 double tolerance, double *out) {
    look(blockIdx.x, gridDim.x, cost, supply, demand, batch, n, m, tolerance, out);
}
extern "C" __global__ void certify(const COST *cost, const COST *supply, const COST *demand, const COST *flow,
                                   const COST *price, int n, int m, double near, double marginal, double bit, double *gap,
                                   bool *fine, COST *value) {
    extern __shared__ __align__(16) char shared[];
    prove(blockIdx.x, cost, supply, demand, flow, price, n, m, near, marginal, bit, gap, fine, value, (double *)shared);
}
#else
extern "C" void facts(const COST *cost, const COST *supply, const COST *demand, wide batch, int n, int m, double tolerance,
                      double *out, wide blocks) {
    for (wide block = 0; block < blocks; block++) look(block, blocks, cost, supply, demand, batch, n, m, tolerance, out);
}
extern "C" void certify(const COST *cost, const COST *supply, const COST *demand, const COST *flow, const COST *price, int n,
                        int m, double near, double marginal, double bit, double *gap, bool *fine, COST *value, wide batch) {
    double *second = (double *)malloc(sizeof(double) * n);
    for (wide b = 0; b < batch; b++)
        prove(b, cost, supply, demand, flow, price, n, m, near, marginal, bit, gap, fine, value, second);
    free(second);
}
#endif
