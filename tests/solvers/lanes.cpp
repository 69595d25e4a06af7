// The GPU kernel's source run by real threads, a lane each, for a race detector and against its own dual prices.
//
// Only fence() orders memory here: argmin and sum pass their values through relaxed atomics, so that ThreadSanitizer sees
// every read that relies on them, as a GPU's other lanes would.
#include <atomic>
#include <barrier>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#define COST double
#define LANES 4
static thread_local int this_lane;
#define lane() this_lane

static std::barrier<> gate(LANES);
static inline void fence() { gate.arrive_and_wait(); }

static std::atomic<long long> values[LANES], payloads[LANES];
static std::atomic<int> arrived, round_number;

static inline void meet() {
    int now = round_number.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_relaxed) == LANES - 1) {
        arrived.store(0, std::memory_order_relaxed);
        round_number.store(now + 1, std::memory_order_relaxed);
    }
    while (round_number.load(std::memory_order_relaxed) == now) std::this_thread::yield();
}
template <class T> static inline T read(int k) {
    long long bits = values[k].load(std::memory_order_relaxed);
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
template <class T> static inline void write(T x) {
    long long bits = 0;
    std::memcpy(&bits, &x, sizeof x);
    values[this_lane].store(bits, std::memory_order_relaxed);
}
template <class T> static inline T argmin(T value, int &payload) {
    write(value);
    payloads[this_lane].store(payload, std::memory_order_relaxed);
    meet();
    int best = 0;
    for (int k = 1; k < LANES; k++)
        if (read<T>(k) < read<T>(best)) best = k;
    value = read<T>(best);
    payload = (int)payloads[best].load(std::memory_order_relaxed);
    meet();
    return value;
}
template <class T> static inline T sum(T x) {
    write(x);
    meet();
    x = 0;
    for (int k = 0; k < LANES; k++) x += read<T>(k);
    meet();
    return x;
}

#include "kernel.cu"

static int check(int n, int m, int kind, std::mt19937 &random) {
    std::uniform_real_distribution<double> uniform(0, 1);
    std::vector<double> cost(n * m), supply(n), demand(m), flow(n * m), u(n), v(m);
    for (double &x : cost) x = kind == 1 ? std::floor(uniform(random) * 3) : uniform(random) * 2 - 0.5;
    for (double &x : supply) x = kind == 1 ? 1.0 / n : uniform(random);
    for (double &x : demand) x = kind == 1 ? 1.0 / m : uniform(random);
    double all = 0, other = 0;
    for (double x : supply) all += x;
    for (double x : demand) other += x;
    for (double &x : demand) x *= all / other;
    int nodes = n + m;
    std::vector<long long> tree(nodes * (6 + 2 * ((nodes + 63) / 64)));
    std::vector<int> near(n * m);
    wide pivots = 0;
    bool converged = false;
    std::vector<std::thread> threads;
    for (int k = 0; k < LANES; k++)
        threads.emplace_back([&, k] {
            this_lane = k;
            solve_one(0, cost.data(), supply.data(), demand.data(), flow.data(), u.data(), v.data(), &pivots, &converged, n, m,
                      (char *)tree.data(), near.data());
        });
    for (auto &thread : threads) thread.join();
    double primal = 0, dual = 0, slack = 0;
    for (int i = 0; i < n; i++) {
        double out = 0;
        for (int j = 0; j < m; j++) {
            primal += cost[i * m + j] * flow[i * m + j];
            out += flow[i * m + j];
            slack = std::fmin(slack, cost[i * m + j] - u[i] - v[j]);
        }
        dual += u[i] * supply[i];
        if (std::fabs(out - supply[i]) > 1e-10 * all) return std::printf("%dx%d: row %d ships %g of %g\n", n, m, i, out, supply[i]);
    }
    for (int j = 0; j < m; j++) dual += v[j] * demand[j];
    if (!converged || slack < -1e-9 || std::fabs(primal - dual) > 1e-9 * all)
        return std::printf("%dx%d: converged %d, slack %g, primal %g, dual %g\n", n, m, converged, slack, primal, dual);
    return 0;
}

int main() {
    std::mt19937 random(1);
    int sizes[][2] = {{1, 1}, {3, 2}, {2, 7}, {9, 9}, {12, 5}, {40, 33}}, faults = 0;
    for (auto &size : sizes)
        for (int kind = 0; kind < 2; kind++) faults += check(size[0], size[1], kind, random) != 0;
    return faults != 0;
}
