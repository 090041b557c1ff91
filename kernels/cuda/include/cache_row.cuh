// Rows of the paged KV cache: plain F32 or BF16, and the FP8 latent row
//   [C e4m3, padded to 4 bytes | one f32 scale per 128 of them | R bf16, padded so that the row is a multiple of 16 bytes]
// which is 656 bytes for C = 512, R = 64; and V4's row that is key and value at once
//   [N e4m3 | one e8m0 scale per 64 of them, padded to 8 bytes | R bf16, padded so that the row is a multiple of 8 bytes]
// which is 584 bytes for N = 448, R = 64. kernels/src/cache_format.rs and shared_kv_row.rs hold the same layouts for the host.
#pragma once
#include "simt/device.h"

namespace cachalot::cache_row {

enum Format : uint32_t { kF32 = 0, kBf16 = 1, kPacked = 2 };

constexpr float kFp8Max = 448.0f;

/// The packed latent row, of `channels` in e4m3.
struct LatentLayout {
    static constexpr int kGroup = 128;    // channels that share a scale
    static constexpr int kCopyBytes = 16;  // which a row is whole units of
    __device__ __forceinline__ static int scales_at(int channels) { return (channels + 3) / 4 * 4; }
    __device__ __forceinline__ static int rope_at(int channels) { return scales_at(channels) + (channels + kGroup - 1) / kGroup * 4; }
    __device__ __forceinline__ static float scale(const uint8_t* row, int c, int channels) {
        return reinterpret_cast<const float*>(row + scales_at(channels))[c / kGroup];
    }
};

/// The packed row that is key and value at once.
struct SharedKvLayout {
    static constexpr int kGroup = 64;
    static constexpr int kCopyBytes = 8;
    __device__ __forceinline__ static int rope_at(int channels) { return (channels + (channels + kGroup - 1) / kGroup + 7) / 8 * 8; }
    __device__ __forceinline__ static float scale(const uint8_t* row, int c, int channels) {
        return __uint_as_float(uint32_t(row[channels + c / kGroup]) << 23);
    }
};

/// The least power of two by which `most`, or 1e-4, is no more than 448 = 1.75 * 2^8: a mantissa above 1.75 carries.
__device__ __forceinline__ float fp8_power_of_two(float most) {
    const uint32_t carried = (__float_as_uint(fmaxf(most, 1e-4f)) + 0x1fffffu) >> 23;
    return __uint_as_float((carried - 8) << 23);
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

/// Column `c` of a row; of a packed one the first `packed` columns are in e4m3.
template <class Layout>
__device__ __forceinline__ float element(Format format, const uint8_t* row, int c, int packed) {
    if (format == kF32) return simt::load(reinterpret_cast<const float*>(row) + c);
    if (format == kBf16) return __bfloat162float(simt::load(reinterpret_cast<const __nv_bfloat16*>(row) + c));
    if (c >= packed) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row + Layout::rope_at(packed))[c - packed]);
    return simt::fp8_e4m3_to_float(row[c]) * Layout::scale(row, c, packed);
}

__device__ __forceinline__ void put(float* row, int c, float value) { simt::store(row + c, value); }
__device__ __forceinline__ void put(__nv_bfloat16* row, int c, float value) { simt::store(row + c, __float2bfloat16(value)); }

}  // namespace cachalot::cache_row
