// What the lanes of a block do together: a warp (LANES 32), several (more), or one lane of plain C++.
//
// Lanes may read what another lane wrote only after fence(). Every lane leaves argmin and sum with the same answer; of
// equal values argmin takes the payload of one lane, the same for all.
#pragma once

#ifdef __CUDACC__
#define GROUP static __device__ __forceinline__
#if LANES == 32
#define lane() ((int)(threadIdx.x & 31))  // all there are, as the compiler then knows
GROUP void fence() { __syncwarp(); }

template <class T> GROUP T reduce_min(T x) {
    for (int step = 16; step; step >>= 1) {
        T other = __shfl_xor_sync(~0u, x, step);
        x = other < x ? other : x;
    }
    return x;
}
template <> __device__ __forceinline__ int reduce_min<int>(int x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_min_sync(~0u, x);
#else
    for (int step = 16; step; step >>= 1) x = min(x, __shfl_xor_sync(~0u, x, step));
    return x;
#endif
}
#if __CUDA_ARCH__ >= 800
template <> __device__ __forceinline__ long long reduce_min<long long>(long long x) {
    int high = __reduce_min_sync(~0u, (int)(x >> 32));
    int low = __reduce_min_sync(~0u, (int)(x >> 32) == high ? (int)((unsigned)x ^ 1u << 31) : 2147483647);
    return (long long)high << 32 | ((unsigned)low ^ 1u << 31);
}
#endif
template <class T> GROUP T argmin(T value, int &payload) {
    T least = reduce_min(value);
    payload = __shfl_sync(~0u, payload, __ffs(__ballot_sync(~0u, value == least)) - 1);
    return least;
}
template <class T> GROUP T sum(T x) {
    for (int step = 16; step; step >>= 1) x += __shfl_xor_sync(~0u, x, step);
    return x;
}
#else
#define lane() ((int)threadIdx.x)
GROUP void fence() { __syncthreads(); }

template <class T> GROUP T argmin(T value, int &payload) {
    __shared__ T values[LANES / 32];
    __shared__ int payloads[LANES / 32];
    for (int step = 16; step; step >>= 1) {
        T other = __shfl_xor_sync(~0u, value, step);
        int carried = __shfl_xor_sync(~0u, payload, step);
        if (other < value || (other == value && carried < payload)) value = other, payload = carried;
    }
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value, payloads[threadIdx.x / 32] = payload;
    __syncthreads();
    for (int w = 0; w < LANES / 32; w++)
        if (values[w] < value || (values[w] == value && payloads[w] < payload)) value = values[w], payload = payloads[w];
    __syncthreads();
    return value;
}
template <class T> GROUP T sum(T x) {
    __shared__ T parts[LANES / 32];
    for (int step = 16; step; step >>= 1) x += __shfl_xor_sync(~0u, x, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < LANES / 32; w++) x += parts[w];
    __syncthreads();
    return x;
}
#endif
#else
#include <cmath>
#include <cstdlib>
#include <cstring>
#define GROUP static inline
#define LANES 1
#define lane() 0
GROUP void fence() {}
template <class T> GROUP T argmin(T value, int &) { return value; }
template <class T> GROUP T sum(T x) { return x; }
#endif

#if !defined(__CUDACC__) || LANES != 32
template <class T> GROUP T reduce_min(T x) {
    int unused = 0;
    return argmin(x, unused);
}
#endif

// The nodes of this lane; OWN also counts them, in a loop whose length is the same for all lanes.
#define EACH(k, count) for (int k = lane(); k < (count); k += LANES)
#define OWN(k, x, count) for (int k = 0; k < ((count) + LANES - 1) / LANES; k++) if (int x = lane() + k * LANES; x < (count))
