// CUDA's scalar intrinsics: bit casts, bit counting, byte permutes, dot products, fast maths (here exact maths).
#pragma once
#include <algorithm>

#include "simt/soft/fiber.h"
#include "simt/soft/warp.h"

using std::max;
using std::min;

namespace simt {

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace simt

inline float __int_as_float(int a) { return simt::bit_cast<float>(a); }
inline int __float_as_int(float a) { return simt::bit_cast<int>(a); }
inline float __uint_as_float(unsigned a) { return simt::bit_cast<float>(a); }
inline unsigned __float_as_uint(float a) { return simt::bit_cast<unsigned>(a); }
inline double __longlong_as_double(long long a) { return simt::bit_cast<double>(a); }
inline long long __double_as_longlong(double a) { return simt::bit_cast<long long>(a); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a ? __builtin_clz(unsigned(a)) : 32; }
inline int __clzll(long long a) { return a ? __builtin_clzll(static_cast<unsigned long long>(a)) : 64; }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline unsigned __brev(unsigned a) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (a >> bit & 1) << (31 - bit);
    return reversed;
}
/// Byte i of the result is byte (selector nibble i) of y:x; bit 3 of the nibble replicates that byte's sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t bytes = uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> 4 * i & 15, byte = unsigned(bytes >> 8 * (nibble & 7)) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * i;
    }
    return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += int8_t(unsigned(a) >> 8 * i) * int8_t(unsigned(b) >> 8 * i);
    return c;
}

inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
inline float __expf(float a) { return expf(a); }
inline float __logf(float a) { return logf(a); }
inline float __log2f(float a) { return log2f(a); }
inline float __sinf(float a) { return sinf(a); }
inline float __cosf(float a) { return cosf(a); }
inline float __powf(float a, float b) { return powf(a, b); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frsqrt_rn(float a) { return float(1.0 / sqrt(double(a))); }
inline float rsqrtf(float a) { return __frsqrt_rn(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __float2int_rn(float a) { return int(rintf(a)); }
inline int __float2int_rz(float a) { return int(a); }
inline int __float2int_rd(float a) { return int(floorf(a)); }
inline float __int2float_rn(int a) { return float(a); }
inline float __uint2float_rn(unsigned a) { return float(a); }

[[noreturn]] inline void __trap(SIMT_HERE) { simt::fail(place, simt::Error::LaunchFailed, "__trap"); }

// A device-side assertion ends the launch, not the process.
#undef assert
#define assert(condition) \
    ((condition) ? void(0) : ::simt::fail(::simt::Place::here(), ::simt::Error::Assert, "assertion failed: %s", #condition))

namespace simt {

/// lop3.b32: any bitwise function of three words; the table is f(0xF0, 0xCC, 0xAA).
template <int Table>
inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t result = 0;
    if (Table & 0x01) result |= ~a & ~b & ~c;
    if (Table & 0x02) result |= ~a & ~b & c;
    if (Table & 0x04) result |= ~a & b & ~c;
    if (Table & 0x08) result |= ~a & b & c;
    if (Table & 0x10) result |= a & ~b & ~c;
    if (Table & 0x20) result |= a & ~b & c;
    if (Table & 0x40) result |= a & b & ~c;
    if (Table & 0x80) result |= a & b & c;
    return result;
}

}  // namespace simt
