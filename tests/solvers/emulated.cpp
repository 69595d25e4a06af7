// Runs a kernel that emulated.h made C++ of, and finds its races.
//
// A lane is a stack of its own; one thread runs them in turn, each until it waits for others, so that a run repeats. The
// kernel, and not this file, is compiled with -fsanitize=thread, but linked with this file instead of ThreadSanitizer:
// every access to memory comes by here. Only __syncwarp of a block that is a warp, and __syncthreads, order memory; what
// lies between two of them is one span of time, in which no lane may touch what another writes, however they take turns.
#undef _FORTIFY_SOURCE  // its longjmp takes another stack for a mistake
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <ucontext.h>

#include "emulated.h"

typedef unsigned long long bits;
static const int WARP = 32, MOST = 1024, STACK = 64 << 10, ROOM = 227 << 10;  // ROOM: a block's shared memory

extern "C" void solve(const void *cost, const void *supply, const void *demand, void *flow, void *supply_price,
                      void *demand_price, long long *iterations, bool *converged, int batch, int rows, int columns,
                      char *workspace, long long slot_bytes, int tree_bytes, int near_bytes);

Place threadIdx, blockIdx, gridDim;
extern "C" {
alignas(128) thread_local char shared[ROOM];
}

static struct Lane {
    ucontext_t context;
    jmp_buf place;
    bool started, done;
    char stack[STACK];
} *lanes;
static struct Warp {
    const char *call;
    int arrived;
    unsigned round;
    bits given[2][WARP];  // in turn: the next round may begin before all have read this one's
} warps[MOST / WARP];
static int count, me, left, idle, waiting, shared_bytes;
static unsigned barrier;
static jmp_buf host;
static char fault[400];
static void (*run)();

[[noreturn]] static void fail(const char *what) {
    if (what) std::snprintf(fault, sizeof fault, "block %u, lane %d: %s", blockIdx.x, me, what);
    _longjmp(host, 1);
}

[[noreturn]] static void enter(int lane) {
    threadIdx.x = me = lane;
    if (lanes[lane].started) _longjmp(lanes[lane].place, 1);
    lanes[lane].started = true;
    setcontext(&lanes[lane].context);
    std::abort();
}

static int next_lane() {
    int lane = me;
    do lane = (lane + 1) % count;
    while (lanes[lane].done);
    return lane;
}

// Lets other lanes go on until `round` is no longer `now`.
static void wait(const unsigned &round, unsigned now) {
    while (round == now) {
        if (idle++ > 2 * count) fail("the lanes wait for each other");
        int lane = next_lane();
        if (lane != me && !_setjmp(lanes[me].place)) enter(lane);
    }
    idle = 0;
}

static void lane_main() {
    run();
    lanes[me].done = true;
    idle = 0;
    if (--left == 0) _longjmp(host, 2);
    enter(next_lane());
}

// Memory. Of a word that this span has touched: who wrote it last, and two lanes that read it, where there are two.
struct Access {
    const void *code;
    int lane;
};
struct Word {
    uintptr_t address;
    bits span;
    Access written, read[2];
};
static const int WORDS = 20;
static Word words[1 << WORDS];
static bits span;

[[noreturn]] static void race(const Access &here, const Access &there, bool both_write) {
    Dl_info file;
    dladdr(here.code, &file);
    std::snprintf(fault, sizeof fault, "race of lanes %d and %d of block %u (%s): +0x%zx +0x%zx", here.lane, there.lane, blockIdx.x,
                  both_write ? "both write" : "one writes", (size_t)((char *)here.code - (char *)file.dli_fbase),
                  (size_t)((char *)there.code - (char *)file.dli_fbase));
    fail(nullptr);
}

static void touch(uintptr_t address, bool writes, const void *code) {
    size_t place = address * 0x9E3779B97F4A7C15u >> (64 - WORDS);
    for (int tries = 0; words[place].span == span && words[place].address != address; place = (place + 1) % (1 << WORDS))
        if (++tries == 1000) fail("the lanes touch more memory between two fences than is kept track of");
    Word &word = words[place];
    Access here{code, me}, nobody{nullptr, -1};
    if (word.span != span) word = {address, span, nobody, {nobody, nobody}};
    if (word.written.lane >= 0 && word.written.lane != me) race(here, word.written, writes);
    if (writes) {
        for (Access &read : word.read)
            if (read.lane >= 0 && read.lane != me) race(here, read, false);
        word.written = here;
    } else if (word.read[0].lane < 0)
        word.read[0] = here;
    else if (word.read[0].lane != me)
        word.read[1] = here;
}

static void touch(const void *from, size_t bytes, bool writes, const void *code) {
    uintptr_t first = (uintptr_t)from, base = (uintptr_t)shared;
    if (first >= base + shared_bytes && first < base + ROOM) fail("beyond the block's shared memory");
    for (uintptr_t word = first / 4; word <= (first + bytes - 1) / 4; word++) touch(word, writes, code);
}

#define TOUCH(name, bytes, writes) \
    void __tsan_##name(void *at) { touch(at, bytes, writes, __builtin_return_address(0)); }
#define TOUCH_BOTH(size) \
    TOUCH(read##size, size, false) TOUCH(write##size, size, true) \
    TOUCH(unaligned_read##size, size, false) TOUCH(unaligned_write##size, size, true)
extern "C" {
TOUCH_BOTH(1) TOUCH_BOTH(2) TOUCH_BOTH(4) TOUCH_BOTH(8) TOUCH_BOTH(16)
void __tsan_read_range(void *at, size_t bytes) { touch(at, bytes, false, __builtin_return_address(0)); }
void __tsan_write_range(void *at, size_t bytes) { touch(at, bytes, true, __builtin_return_address(0)); }
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}

// What the lanes of a warp give each other once all have arrived.
static const bits *meet(const char *call, unsigned mask, bits given, bool orders = false) {
    Warp &warp = warps[me / WARP];
    if (mask != ~0u) fail("a mask without some lane");
    if (warp.arrived && warp.call != call) fail("the lanes of a warp call different functions");
    unsigned now = warp.round;
    bits *all = warp.given[now % 2];
    warp.call = call;
    all[me % WARP] = given;
    if (++warp.arrived == WARP) warp.arrived = 0, warp.round++, span += orders;
    wait(warp.round, now);
    return all;
}

bits shuffled(unsigned mask, bits given, int from) { return meet("shuffle", mask, given)[from & (WARP - 1)]; }
unsigned __ballot_sync(unsigned mask, bool vote) {
    const bits *all = meet("ballot", mask, vote);
    unsigned votes = 0;
    for (int k = 0; k < WARP; k++) votes |= (unsigned)all[k] << k;
    return votes;
}
int __reduce_min_sync(unsigned mask, int x) {
    const bits *all = meet("reduce", mask, (unsigned)x);
    for (int k = 0; k < WARP; k++) x = min(x, (int)all[k]);
    return x;
}
void __syncwarp() { meet("__syncwarp", ~0u, 0, true); }
void __syncthreads() {
    unsigned now = barrier;
    if (++waiting == count) waiting = 0, barrier++, span++;
    wait(barrier, now);
}

static const void *const *inputs;
static void *const *outputs;
static const int *sizes;
static char *workspace;
static long long slot_bytes;

// Launches `solve`: sizes are batch, rows, columns and the bytes of tree and costs in shared memory. Returns "" or a fault.
extern "C" const char *launch(int blocks, int threads, const void *const *in, void *const *out, const int *size, char *work,
                              long long slot) {
    inputs = in, outputs = out, sizes = size, workspace = work, slot_bytes = slot;
    run = [] {
        solve(inputs[0], inputs[1], inputs[2], outputs[0], outputs[1], outputs[2], (long long *)outputs[3], (bool *)outputs[4],
              sizes[0], sizes[1], sizes[2], workspace, slot_bytes, sizes[3], sizes[4]);
    };
    fault[0] = 0;
    count = threads;
    shared_bytes = size[3] + size[4];
    gridDim.x = blocks;
    lanes = (Lane *)std::malloc(sizeof(Lane) * count);
    for (blockIdx.x = 0; blockIdx.x < gridDim.x && !fault[0]; blockIdx.x++) {
        std::memset(shared, 0xA5, ROOM);
        std::memset(warps, 0, sizeof warps);
        left = count, idle = waiting = 0, span++;
        for (int k = 0; k < count; k++) {
            Lane &lane = lanes[k];
            lane.started = lane.done = false;
            getcontext(&lane.context);
            lane.context.uc_stack.ss_sp = lane.stack;
            lane.context.uc_stack.ss_size = STACK;
            makecontext(&lane.context, lane_main, 0);
        }
        if (!_setjmp(host)) enter(0);
    }
    std::free(lanes);
    return fault;
}
