// cuda_fp16.h's types and conversions, as far as kernels use them. Every operation rounds once, to nearest even.
#pragma once
#include "simt/soft/language.h"

namespace simt {

inline float half_bits_to_float(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value;
    if (exponent == 0) {
        value = ldexpf(float(fraction), -24);
        return sign ? -value : value;
    }
    uint32_t wide = exponent == 31 ? sign | 0x7f800000 | fraction << 13 : sign | (exponent + 112) << 23 | fraction << 13;
    memcpy(&value, &wide, sizeof value);
    return value;
}

inline uint16_t float_to_half_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;  // rounds to 65536 or more
    if (magnitude < 0x38800000) {
        // Subnormal: the result counts units of 2^-24. rintf rounds to nearest even.
        return sign | uint16_t(rintf(ldexpf(fabsf(value), 24)));
    }
    return sign | uint16_t((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

}  // namespace simt

struct __half {
    uint16_t bits;
    __half() = default;
    __half(float value) : bits(simt::float_to_half_bits(value)) {}
    operator float() const { return simt::half_bits_to_float(bits); }
};

struct alignas(4) __half2 {
    __half x, y;
};

using half = __half;
using half2 = __half2;

inline float __half2float(__half a) { return float(a); }
inline __half __float2half(float a) { return {a}; }
inline __half __float2half_rn(float a) { return {a}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 a) { return {a.x, a.y}; }
inline __half2 __float2half2_rn(float a) { return {a, a}; }
inline float2 __half22float2(__half2 a) { return {float(a.x), float(a.y)}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half a) { return {a, a}; }
inline __half __low2half(__half2 a) { return a.x; }
inline __half __high2half(__half2 a) { return a.y; }
inline float __low2float(__half2 a) { return a.x; }
inline float __high2float(__half2 a) { return a.y; }
inline uint16_t __half_as_ushort(__half a) { return a.bits; }
inline __half __ushort_as_half(uint16_t bits) {
    __half a;
    a.bits = bits;
    return a;
}

inline __half __hadd(__half a, __half b) { return {float(a) + float(b)}; }
inline __half __hsub(__half a, __half b) { return {float(a) - float(b)}; }
inline __half __hmul(__half a, __half b) { return {float(a) * float(b)}; }
inline __half __hfma(__half a, __half b, __half c) { return {float(double(float(a) * float(b)) + double(float(c)))}; }
inline __half __hmax(__half a, __half b) { return {fmaxf(a, b)}; }
inline __half __hmin(__half a, __half b) { return {fminf(a, b)}; }
inline __half __hneg(__half a) { return __ushort_as_half(a.bits ^ 0x8000); }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hmax2(__half2 a, __half2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
inline __half2 __hmin2(__half2 a, __half2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
