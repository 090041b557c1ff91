// The released treatment of the indexer's queries and keys: a Walsh-Hadamard rotation, then e4m3 with one scale, or e2m1 with
// one per 32 channels; scales are powers of two. A packed key is [D e4m3, padded to 4 bytes | f32 scale], or
// [D / 2 pairs of e2m1 | one e8m0 scale per 32 channels, padded so that the row is a multiple of 4 bytes].
// kernels/src/index_key_row.rs, fp4_key_row.rs and cpu/hadamard.rs have the same for the host.
#pragma once
#include "cache_row.cuh"
#include "reduce.cuh"
#include "simt/device.h"

namespace cachalot::index_vector {

__device__ __forceinline__ uint32_t scale_at(uint32_t dim) { return (dim + 3) / 4 * 4; }

/// Rotates `row`, `dim` floats of shared memory, by one warp, which must see them already. A lane may then read channels
/// lane, lane + 32 and so on.
__device__ __forceinline__ void rotate(float* row, uint32_t dim) {
    for (uint32_t half = 1; half < dim; half *= 2) {
        for (uint32_t i = simt::lane_id(); i < dim / 2; i += 32) {
            float *left = row + i + (i & ~(half - 1)), *right = left + half;
            const float a = *left, b = *right;
            *left = a + b;
            *right = a - b;
        }
        __syncwarp();
    }
    const float norm = 1.0f / sqrtf(float(dim));
    for (uint32_t i = simt::lane_id(); i < dim; i += 32) row[i] *= norm;
}

/// The scale of a rotated row in e4m3.
__device__ __forceinline__ float fp8_scale(const float* row, uint32_t dim) {
    float most = 0.0f;
    for (uint32_t i = simt::lane_id(); i < dim; i += 32) most = fmaxf(most, fabsf(row[i]));
    return cache_row::fp8_power_of_two(warp_max(most));
}

/// Rotates a row and packs it.
__device__ __forceinline__ void put_fp8_key(uint8_t* to, float* row, uint32_t dim) {
    rotate(row, dim);
    const float scale = fp8_scale(row, dim);
    for (uint32_t c = simt::lane_id(); c < dim; c += 32) simt::store(to + c, cache_row::float_to_fp8_e4m3(row[c] / scale));
    if (simt::lane_id() == 0) simt::store(reinterpret_cast<float*>(to + scale_at(dim)), scale);
}

constexpr uint32_t kFp4Group = 32;  // channels that share a scale: one of each lane
__device__ __forceinline__ uint32_t fp4_scales_at(uint32_t dim) { return dim / 2; }

/// The nearest e2m1 code, ties to the even one; magnitudes above 6 saturate.
__device__ __forceinline__ uint32_t float_to_e2m1(float value) {
    const float m = fabsf(value);
    const uint32_t small = m <= 0.25f ? 0 : m < 0.75f ? 1 : m <= 1.25f ? 2 : 3;
    const uint32_t large = m <= 2.5f ? 4 : m < 3.5f ? 5 : m <= 5.0f ? 6 : 7;
    return (__float_as_uint(value) >> 28 & 8) | (m < 1.75f ? small : large);
}

/// The least power of two by which the largest magnitude of a warp, or 6 * 2^-126, is no more than 6 = 1.5 * 2^2; NaN if one is.
__device__ __forceinline__ float fp4_scale(float value) {
    float most = fmaxf(fabsf(value), 0x1.8p-124f);
    if (value != value) most = value;
#pragma unroll
    for (int step = 16; step; step /= 2) most = max_or_nan(most, __shfl_xor_sync(0xffffffffu, most, step));
    if (most != most) return most;
    return __uint_as_float((((__float_as_uint(most) + 0x3fffffu) >> 23) - 2) << 23);
}

/// The scale of an e8m0 byte.
__device__ __forceinline__ float e8m0_to_float(uint8_t byte) { return __uint_as_float(byte == 255 ? 0x7fc00000u : uint32_t(byte) << 23); }

/// Rotates a row and packs it.
__device__ __forceinline__ void put_fp4_key(uint8_t* to, float* row, uint32_t dim) {
    rotate(row, dim);
    for (uint32_t first = 0; first < dim; first += kFp4Group) {
        const uint32_t lane = simt::lane_id(), c = first + lane;
        const float value = c < dim ? row[c] : 0.0f, scale = fp4_scale(value);
        const uint32_t code = float_to_e2m1(value / scale), next = __shfl_down_sync(0xffffffffu, code, 1);
        if (c < dim && lane % 2 == 0) simt::store(to + c / 2, uint8_t(code | next << 4));
        if (lane == 0) simt::store(to + fp4_scales_at(dim) + first / kFp4Group, uint8_t((__float_as_uint(scale) & 0x7fffffffu) >> 23));
    }
}

/// Rotates a row and rounds it to what a packed one gives back.
__device__ __forceinline__ void round_fp4(float* to, float* row, uint32_t dim) {
    rotate(row, dim);
    for (uint32_t first = 0; first < dim; first += kFp4Group) {
        const uint32_t c = first + simt::lane_id();
        const float value = c < dim ? row[c] : 0.0f, scale = fp4_scale(value);
        if (c < dim) simt::store(to + c, simt::fp4_e2m1_to_float(float_to_e2m1(value / scale)) * scale);
    }
}

}  // namespace cachalot::index_vector
