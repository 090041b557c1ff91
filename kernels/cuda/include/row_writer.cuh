// Rows on their way into a cache, one per block: the first channels as they are or packed by groups (cache_row.cuh has the
// layouts), the rotated ones behind them; or, as index keys, packed at the end, out of shared memory.
#pragma once
#include "cache_row.cuh"
#include "index_vector.cuh"
#include "reduce.cuh"
#include "simt/device.h"

namespace cachalot::row_writer {

/// The largest magnitude of a group, in every lane of the warp that has it.
template <int kEach>
__device__ __forceinline__ float largest(const float (&values)[kEach], int count) {
    float most = 0.0f;
    for (int i = 0; i < kEach; i++)
        if (i * 32 + int(simt::lane_id()) < count) most = fmaxf(most, fabsf(values[i]));
    return warp_max(most);
}

/// A group in e4m3, divided by its scale.
template <int kEach>
__device__ __forceinline__ void put_fp8(uint8_t* to, const float (&values)[kEach], int count, float scale) {
    for (int i = 0; i < kEach; i++)
        if (int at = i * 32 + int(simt::lane_id()); at < count) simt::store(to + at, cache_row::float_to_fp8_e4m3(values[i] / scale));
}

/// A row of plain elements.
template <class T>
struct PlainRow {
    static constexpr int kGroup = 32;  // what a warp puts at a time
    T* row;
    int channels;
    __device__ __forceinline__ PlainRow(uint8_t* bytes, int channels, float* = nullptr) : row(reinterpret_cast<T*>(bytes)), channels(channels) {}
    __device__ __forceinline__ void put_group(int first, int count, const float (&values)[1]) const {
        if (int(simt::lane_id()) < count) cache_row::put(row, first + int(simt::lane_id()), values[0]);
    }
    __device__ __forceinline__ void put_rope(int c, float value) const { cache_row::put(row, channels + c, value); }
    __device__ __forceinline__ void finish(int) const {}
};

/// A packed latent row: every 128 channels divided by their largest magnitude / 448.
struct LatentRow {
    static constexpr int kGroup = cache_row::LatentLayout::kGroup;
    uint8_t* row;
    int latent;
    __device__ __forceinline__ LatentRow(uint8_t* bytes, int latent) : row(bytes), latent(latent) {}
    __device__ __forceinline__ void put_group(int first, int count, const float (&values)[kGroup / 32]) const {
        float scale = largest(values, count) / cache_row::kFp8Max;
        if (scale == 0.0f) scale = 1.0f;
        put_fp8(row + first, values, count, scale);
        if (simt::lane_id() == 0)
            simt::store(reinterpret_cast<float*>(row + cache_row::LatentLayout::scales_at(latent)) + first / kGroup, scale);
    }
    __device__ __forceinline__ void put_rope(int c, float value) const {
        cache_row::put(reinterpret_cast<__nv_bfloat16*>(row + cache_row::LatentLayout::rope_at(latent)), c, value);
    }
};

/// A packed row that is key and value at once: every 64 channels divided by a power of two.
struct SharedKvRow {
    static constexpr int kGroup = cache_row::SharedKvLayout::kGroup;
    uint8_t* row;
    int channels;
    __device__ __forceinline__ SharedKvRow(uint8_t* bytes, int channels, float* = nullptr) : row(bytes), channels(channels) {}
    __device__ __forceinline__ void put_group(int first, int count, const float (&values)[kGroup / 32]) const {
        const float scale = cache_row::fp8_power_of_two(largest(values, count));
        put_fp8(row + first, values, count, scale);
        if (simt::lane_id() == 0) simt::store(row + channels + first / kGroup, uint8_t(__float_as_uint(scale) >> 23));
    }
    __device__ __forceinline__ void put_rope(int c, float value) const {
        cache_row::put(reinterpret_cast<__nv_bfloat16*>(row + cache_row::SharedKvLayout::rope_at(channels)), c, value);
    }
    __device__ __forceinline__ void finish(int) const {}
};

/// A packed index key: its channels gather in shared memory, where the first warp rotates and packs them with `Put`.
template <void (*Put)(uint8_t*, float*, uint32_t)>
struct KeyRow {
    static constexpr int kGroup = 32;
    uint8_t* row;
    int channels;
    float* shared;
    __device__ __forceinline__ KeyRow(uint8_t* bytes, int channels, float* shared) : row(bytes), channels(channels), shared(shared) {}
    __device__ __forceinline__ void put_group(int first, int count, const float (&values)[1]) const {
        if (int(simt::lane_id()) < count) shared[first + simt::lane_id()] = values[0];
    }
    __device__ __forceinline__ void put_rope(int c, float value) const { shared[channels + c] = value; }
    __device__ __forceinline__ void finish(int dim) const {
        __syncthreads();
        if (threadIdx.x < 32) Put(row, shared, dim);
    }
};

/// The first channels of a row, `value(c)` each: a warp has a group.
template <class Row, class Value>
__device__ __forceinline__ void put_channels(const Row& row, int channels, Value value) {
    for (int first = int(threadIdx.x) / 32 * Row::kGroup; first < channels; first += int(blockDim.x) / 32 * Row::kGroup) {
        const int count = min(channels - first, Row::kGroup);
        float values[Row::kGroup / 32];
        for (int i = 0; i < Row::kGroup / 32; i++)
            if (int at = i * 32 + int(simt::lane_id()); at < count) values[i] = value(first + at);
        row.put_group(first, count, values);
    }
}

/// The rotated ones: neighbours `value(2 j)` and `value(2 j + 1)` turned by angle `j` of `half`.
template <class Row, class Value>
__device__ __forceinline__ void put_rotated(const Row& row, int half, const float* cosines, const float* sines, Value value) {
    for (int j = threadIdx.x; j < half; j += blockDim.x) {
        const float even = value(2 * j), odd = value(2 * j + 1), cosine = simt::load(cosines + j), sine = simt::load(sines + j);
        row.put_rope(2 * j, even * cosine - odd * sine);
        row.put_rope(2 * j + 1, odd * cosine + even * sine);
    }
}

}  // namespace cachalot::row_writer
