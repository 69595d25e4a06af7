// Runs a kernel that emulated.h made C++ of, and finds its races.
//
// A lane has a stack of its own. One thread runs all lanes in turn, each until it waits for others, so that a run
// repeats itself. The kernel, unlike this file, is compiled with -fsanitize=thread, but linked with this file in
// ThreadSanitizer's place: all its reads and writes come by here. Only __syncthreads, and __syncwarp of a block of one
// warp, order memory: between two of them no lane may touch what another writes, whoever comes first. Blocks run one
// after another.
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
static struct {
    const void *const *in;
    void *const *out;
    int batch, rows, columns, tree_bytes, near_bytes;
    char *workspace;
    long long slot_bytes;
} call;

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
    const char *what;
    int arrived;
    unsigned round;
    bits given[2][WARP];  // in turn: the next round may begin before all have read this one's
} warps[MOST / WARP];
static int count, me, left, idle, waiting;  // idle: lanes in a row that had to wait on
static unsigned barrier;
static jmp_buf host;
static char fault[400];

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
    void *const *out = call.out;
    solve(call.in[0], call.in[1], call.in[2], out[0], out[1], out[2], (long long *)out[3], (bool *)out[4], call.batch,
          call.rows, call.columns, call.workspace, call.slot_bytes, call.tree_bytes, call.near_bytes);
    lanes[me].done = true;
    idle = 0;
    if (--left == 0) _longjmp(host, 2);
    enter(next_lane());
}

// A span is the time between two fences. Of four bytes that were touched in it: who wrote them last, and two lanes that
// read them, where two did.
struct Access {
    const void *code;
    int lane;
};
struct Word {
    uintptr_t address;
    bits span;
    Access written, read[2];
};
static const int INDEX_BITS = 20;
static const size_t LENGTH = 1 << INDEX_BITS;
static Word words[LENGTH];
static bits span;

static size_t offset(const void *code) {  // in the library, of the call before this address
    Dl_info file;
    dladdr(code, &file);
    return (const char *)code - 1 - (const char *)file.dli_fbase;
}

[[noreturn]] static void race(const Access &here, const Access &there) {
    std::snprintf(fault, sizeof fault, "block %u: race of lane %d at 0x%zx with lane %d at 0x%zx", blockIdx.x,
                  here.lane, offset(here.code), there.lane, offset(there.code));
    fail(nullptr);
}

static void touch(uintptr_t address, bool writes, const void *code) {
    size_t place = (address / 16 * 0x9E3779B97F4A7C15u >> (68 - INDEX_BITS)) * 16 + address % 16;  // near stays near
    for (int tries = 0; words[place].span == span && words[place].address != address; place = (place + 1) % LENGTH)
        if (++tries == 1000) fail("the lanes touch more memory between two fences than is kept track of");
    Word &word = words[place];
    Access here{code, me}, nobody{nullptr, -1};
    if (word.span != span) word = {address, span, nobody, {nobody, nobody}};
    if (word.written.lane >= 0 && word.written.lane != me) race(here, word.written);
    if (writes) {
        for (Access &read : word.read)
            if (read.lane >= 0 && read.lane != me) race(here, read);
        word.written = here;
    } else if (word.read[0].lane < 0)
        word.read[0] = here;
    else if (word.read[0].lane != me)
        word.read[1] = here;
}

static void touch(const void *from, size_t bytes, bool writes, const void *code) {
    uintptr_t first = (uintptr_t)from, base = (uintptr_t)shared;
    if (first >= base && first < base + ROOM && first + bytes > base + call.tree_bytes + call.near_bytes)
        fail("beyond the block's shared memory");
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
static const bits *meet(const char *what, unsigned mask, bits given, bool orders = false) {
    Warp &warp = warps[me / WARP];
    if (mask != ~0u) fail("a mask without some lane");
    if (warp.arrived && warp.what != what) fail("the lanes of a warp call different functions");
    unsigned now = warp.round;
    bits *all = warp.given[now % 2];
    warp.what = what;
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

// Launches `solve`; returns a fault, or "". Sizes: batch, rows, columns, and bytes of tree and costs in shared memory.
extern "C" const char *launch(int blocks, int threads, const void *const *in, void *const *out, const int *sizes,
                              char *workspace, long long slot_bytes) {
    call = {in, out, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], workspace, slot_bytes};
    fault[0] = 0;
    count = threads;
    gridDim.x = blocks;
    lanes = (Lane *)std::malloc(sizeof(Lane) * count);
    for (blockIdx.x = 0; blockIdx.x < gridDim.x && !fault[0]; blockIdx.x++) {
        std::memset(shared, 0xA5, ROOM);
        std::memset(warps, 0, sizeof warps);
        left = count, idle = waiting = 0, span++;
        for (int k = 0; k < count; k++) {
            ucontext_t &context = lanes[k].context;
            lanes[k].started = lanes[k].done = false;
            getcontext(&context);
            context.uc_stack.ss_sp = lanes[k].stack;
            context.uc_stack.ss_size = STACK;
            makecontext(&context, lane_main, 0);
        }
        if (!_setjmp(host)) enter(0);
    }
    std::free(lanes);
    return fault;
}
