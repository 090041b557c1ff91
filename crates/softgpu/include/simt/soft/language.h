// CUDA's words for a C++ compiler: keywords, vector types, built-in variables.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

// One block runs at a time per OS thread, and the runtime has no thread-local data of its own (but one byte, see
// `static_shared`): the thread-local data of a kernel's shared object is its static shared memory.
#define __shared__ static thread_local

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define SIMT_VECTOR(T, name)                                                                        \
    struct alignas(2 * sizeof(T)) name##2 {                                                         \
        T x, y;                                                                                     \
    };                                                                                              \
    struct name##3 {                                                                                \
        T x, y, z;                                                                                  \
    };                                                                                              \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 {                               \
        T x, y, z, w;                                                                               \
    };                                                                                              \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                      \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                              \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

SIMT_VECTOR(signed char, char)
SIMT_VECTOR(unsigned char, uchar)
SIMT_VECTOR(short, short)
SIMT_VECTOR(unsigned short, ushort)
SIMT_VECTOR(int, int)
SIMT_VECTOR(float, float)
SIMT_VECTOR(double, double)
SIMT_VECTOR(long long, longlong)
#undef SIMT_VECTOR

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
