// Decoding packed weights: FP8 e4m3, FP4 e2m1 and INT4 to bf16 and f32. One source for both compilers.
// The narrow exponent is shifted into the wide one's place, and the difference of the biases is made up by one exact
// multiplication, which also turns subnormals into normal numbers.
#pragma once

#if !defined(__CUDACC__)
#include "simt/soft/bfloat16.h"
#include "simt/soft/intrinsics.h"
#endif

namespace simt {

/// e4m3 (no infinities, 0x7f and 0xff are NaN) to f32. Do not compile with -ftz=true: subnormals pass through one.
__device__ __forceinline__ float fp8_e4m3_to_float(uint8_t x) {
    unsigned magnitude = x & 0x7fu, sign = (x & 0x80u) << 24;
    if (magnitude == 0x7fu) return __uint_as_float(0x7fc00000u | sign);
    return __uint_as_float(magnitude << 20 | sign) * 0x1p120f;
}

/// The finite values of e4m3 to bf16: exact.
__device__ __forceinline__ __nv_bfloat16 fp8_e4m3_to_bf16(uint8_t x) { return __float2bfloat16(fp8_e4m3_to_float(x)); }

/// The lower four bits as e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
__device__ __forceinline__ float fp4_e2m1_to_float(unsigned nibble) {
    return __uint_as_float((nibble & 7u) << 22 | (nibble & 8u) << 28) * 0x1p126f;
}

/// The byte's low nibble in x, its high nibble in y.
__device__ __forceinline__ __nv_bfloat162 fp4x2_e2m1_to_bf162(uint8_t pair) {
    return __floats2bfloat162_rn(fp4_e2m1_to_float(pair & 15u), fp4_e2m1_to_float(pair >> 4));
}

/// The lower four bits as a two's complement integer, -8 to 7.
__device__ __forceinline__ int int4_to_int(unsigned nibble) { return int(nibble << 28) >> 28; }

/// Two bf16 in the register layout that mma wants: `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
    return uint32_t(__bfloat16_as_ushort(__float2bfloat16(low))) |
           uint32_t(__bfloat16_as_ushort(__float2bfloat16(high))) << 16;
}

}  // namespace simt
