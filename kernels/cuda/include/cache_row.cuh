// Rows of the paged KV cache: plain F32 or BF16, and the FP8 latent row
//   [C e4m3, padded to 4 bytes | one f32 scale per 128 of them | R bf16, padded so that the row is a multiple of 16 bytes]
// which is 656 bytes for C = 512, R = 64. kernels/src/cache_format.rs holds the same layout for the host.
#pragma once
#include "simt/device.h"

namespace cachalot::cache_row {

enum Format : uint32_t { kF32 = 0, kBf16 = 1, kFp8 = 2 };

constexpr int kScaleGroup = 128;  // channels that share a scale
constexpr float kFp8Max = 448.0f;

__device__ __forceinline__ int fp8_scales_at(int latent) { return (latent + 3) / 4 * 4; }
__device__ __forceinline__ int fp8_rope_at(int latent) {
    return fp8_scales_at(latent) + (latent + kScaleGroup - 1) / kScaleGroup * 4;
}

/// The nearest e4m3 byte, ties to even; magnitudes above 448 saturate, NaN stays NaN.
__device__ __forceinline__ uint8_t float_to_fp8_e4m3(float value) {
    uint32_t bits = __float_as_uint(value), sign = bits >> 24 & 0x80u;
    float magnitude = fabsf(value);
    if (magnitude != magnitude) return uint8_t(sign | 0x7fu);
    if (magnitude >= kFp8Max) return uint8_t(sign | 0x7eu);
    // Below 2^-6 the format is fixed point with step 2^-9: adding 1.5 * 2^14 leaves the rounded multiple in the low bits.
    if (magnitude < 0x1p-6f) return uint8_t(sign | (__float_as_uint(magnitude + 0x1.8p14f) & 0xfu));
    // Round the 23-bit mantissa to 3 bits; a carry goes into the exponent by itself.
    uint32_t rounded = (bits & 0x7fffffffu) + 0x7ffffu + (bits >> 20 & 1u);
    return uint8_t(sign | min((rounded >> 20) - (120u << 3), 0x7eu));
}

/// Column `c` of a row whose first `latent` columns are the packed ones (FP8 only).
__device__ __forceinline__ float element(Format format, const uint8_t* row, int c, int latent) {
    if (format == kF32) return simt::load(reinterpret_cast<const float*>(row) + c);
    if (format == kBf16) return __bfloat162float(simt::load(reinterpret_cast<const __nv_bfloat16*>(row) + c));
    if (c >= latent) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row + fp8_rope_at(latent))[c - latent]);
    float scale = reinterpret_cast<const float*>(row + fp8_scales_at(latent))[c / kScaleGroup];
    return simt::fp8_e4m3_to_float(row[c]) * scale;
}

__device__ __forceinline__ void put(float* row, int c, float value) { simt::store(row + c, value); }
__device__ __forceinline__ void put(__nv_bfloat16* row, int c, float value) { simt::store(row + c, __float2bfloat16(value)); }

}  // namespace cachalot::cache_row
