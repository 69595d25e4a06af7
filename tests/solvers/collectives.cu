// Collectives that follow each other at once, launched in kernel.cu's place. A row is a lane's and holds two costs; the
// flows are the rows of both columns' smallest cost, and a supply price is the columns' sum, the second counted twice.
#include "lanes.cuh"

extern "C" __global__ void solve(const COST *cost, const COST *, const COST *, COST *flow, COST *sums, COST *,
                                 long long *, bool *, int, int, int, char *, long long, int, int) {
    int k = lane(), rows[2] = {k, k};
    COST first = cost[2 * k], second = cost[2 * k + 1];
    COST low = argmin(first, rows[0]), other = argmin(second, rows[1]);
    flow[2 * k] = low == cost[2 * rows[0]] ? rows[0] : -1;
    flow[2 * k + 1] = other == cost[2 * rows[1] + 1] ? rows[1] : -1;
    sums[k] = sum(first);
    sums[k] += 2 * sum(second);
}
