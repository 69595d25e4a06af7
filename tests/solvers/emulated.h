// CUDA as kernel.cu uses it, for a C++ compiler: included before that file, which stays as it is. See emulated.cpp.
#pragma once
#include <cmath>
#include <cstdlib>
#include <cstring>

#define __CUDACC__
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif
#define __device__
#define __global__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ thread_local  // one thread runs all lanes, and `extern` and a function's own variables may be so

struct Place {
    unsigned x;
};
extern Place threadIdx, blockIdx, gridDim;

// What the lane `from` of the warp gives; lanes meet, but memory is not ordered.
unsigned long long shuffled(unsigned mask, unsigned long long given, int from);
unsigned __ballot_sync(unsigned mask, bool vote);
#if __CUDA_ARCH__ >= 800
int __reduce_min_sync(unsigned mask, int x);
#endif
#if LANES == 32
void __syncwarp();
#else
void __syncthreads();
#endif

template <class T> static inline T __shfl_sync(unsigned mask, T x, int from) {
    unsigned long long bits = 0;
    std::memcpy(&bits, &x, sizeof x);
    bits = shuffled(mask, bits, from);
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T x, int step) {
    return __shfl_sync(mask, x, (int)(threadIdx.x & 31) ^ step);
}
static inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }
static inline int min(int a, int b) { return a < b ? a : b; }
