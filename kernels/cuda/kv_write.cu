// The step's keys and values into the paged cache: norm, rope and rounding in one pass, one block per token. Two tokens
// of a step never name the same slot.
#include "cache_row.cuh"
#include "fault.cuh"
#include "index_vector.cuh"
#include "reduce.cuh"
#include "row_writer.cuh"
#include "simt/device.h"

namespace cachalot::kv_write {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMaxPackedKey = 1024;  // channels

/// kernels/src/cuda/kv_write.rs has the same structs.
struct MlaSizes {
    uint32_t latent, half_rope;  // C, R / 2
    uint32_t rows, row_bytes;    // of the cache
    float eps;
};

struct GqaSizes {
    uint32_t heads, head_dim, half_rope;
    uint32_t half_split;  // the pairs of a head are (j, j + half) instead of (2j, 2j + 1)
    uint32_t rows;
};

struct IndexSizes {
    uint32_t dim, half_rope;
    uint32_t rows, row_bytes;  // of the cache
    float eps;
};

/// 1 / sqrt(mean of squares + eps) of `count` values, the same in every thread.
__device__ __forceinline__ float inverse_rms(const float* x, int count, float eps) {
    __shared__ float sums[kWarps];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += kThreads) {
        float value = simt::load(x + i);
        sum += value * value;
    }
    return 1.0f / sqrtf(block_sum(sum, sums) / float(count) + eps);
}

/// One pair rotated: (even cos - odd sin, odd cos + even sin).
__device__ __forceinline__ float2 rotate(float even, float odd, float cosine, float sine) {
    return {even * cosine - odd * sine, odd * cosine + even * sine};
}

/// cache[slots[t]] = [rms_norm(latent) | rope(k_rope)] for kv_a [T, C + R], cos and sin [T, R / 2].
template <class Row>
__device__ __forceinline__ void mla(uint8_t* cache, const float* kv_a, const float* weight, const float* cosines, const float* sines,
                                    const uint32_t* slots, Fault* fault, const MlaSizes& s) {
    const uint32_t slot = simt::load(slots + blockIdx.x);
    if (!index_in_range(fault, kSlot, slot, s.rows)) return;
    const int latent = s.latent, half = s.half_rope;
    const float* x = kv_a + size_t(blockIdx.x) * (latent + 2 * half);
    const Row row(cache + size_t(slot) * s.row_bytes, latent);
    const float scale = inverse_rms(x, latent, s.eps);
    row_writer::put_channels(row, latent, [&](int c) { return simt::load(x + c) * scale * simt::load(weight + c); });
    const size_t angles = size_t(blockIdx.x) * half;
    row_writer::put_rotated(row, half, cosines + angles, sines + angles, [&](int c) { return simt::load(x + latent + c); });
}

/// cache[slots[t]] = [rope(k) | v] for k and v [T, H_kv, D], cos and sin [T, R / 2]; columns from R on are not rotated.
template <class T>
__device__ __forceinline__ void gqa(T* cache, const float* k, const float* v, const float* cosines, const float* sines,
                                    const uint32_t* slots, Fault* fault, const GqaSizes& s) {
    const uint32_t slot = simt::load(slots + blockIdx.x);
    if (!index_in_range(fault, kSlot, slot, s.rows)) return;
    const int width = s.heads * s.head_dim, half = s.half_rope;
    const float *keys = k + size_t(blockIdx.x) * width, *values = v + size_t(blockIdx.x) * width;
    T* row = cache + size_t(slot) * 2 * width;
    for (int i = threadIdx.x; i < int(s.heads) * half; i += kThreads) {
        const int head = i / half * s.head_dim, j = i % half;
        const int even = head + (s.half_split ? j : 2 * j), odd = head + (s.half_split ? j + half : 2 * j + 1);
        const size_t angle = size_t(blockIdx.x) * half + j;
        float2 pair = rotate(simt::load(keys + even), simt::load(keys + odd), simt::load(cosines + angle), simt::load(sines + angle));
        cache_row::put(row, even, pair.x);
        cache_row::put(row, odd, pair.y);
    }
    for (int i = threadIdx.x; i < width; i += kThreads) {
        if (i % int(s.head_dim) >= 2 * half) cache_row::put(row, i, simt::load(keys + i));
        cache_row::put(row + width, i, simt::load(values + i));
    }
}

/// An index key of plain elements.
template <class T>
struct PlainKey {
    T* row;
    __device__ __forceinline__ PlainKey(uint8_t* bytes, int) : row(reinterpret_cast<T*>(bytes)) {}
    __device__ __forceinline__ void put(int c, float value) const { cache_row::put(row, c, value); }
    __device__ __forceinline__ void finish() const {}
};

/// A packed one, which the first warp makes of its channels in shared memory.
struct PackedKey {
    uint8_t* row;
    float* channels;
    int dim;
    __device__ __forceinline__ PackedKey(uint8_t* bytes, int dim) : row(bytes), dim(dim) {
        __shared__ float memory[kMaxPackedKey];
        channels = memory;
    }
    __device__ __forceinline__ void put(int c, float value) const { channels[c] = value; }
    __device__ __forceinline__ void finish() const {
        __syncthreads();
        if (threadIdx.x < 32) index_vector::put_fp8_key(row, channels, dim);
    }
};

/// cache[slots[t]] = layer_norm(k) for k [T, D], its first R columns rotated (halves paired), cos and sin [T, R / 2].
template <class Key>
__device__ __forceinline__ void index_key(uint8_t* cache, const float* k, const float* weight, const float* bias, const float* cosines,
                                          const float* sines, const uint32_t* slots, Fault* fault, const IndexSizes& s) {
    __shared__ float sums[2][kWarps];
    const uint32_t slot = simt::load(slots + blockIdx.x);
    if (!index_in_range(fault, kSlot, slot, s.rows)) return;
    const int dim = s.dim, half = s.half_rope;
    const float* x = k + size_t(blockIdx.x) * dim;
    const Key key(cache + size_t(slot) * s.row_bytes, dim);
    float sum = 0.0f, squares = 0.0f;
    for (int i = threadIdx.x; i < dim; i += kThreads) sum += simt::load(x + i);
    const float mean = block_sum(sum, sums[0]) / float(dim);
    for (int i = threadIdx.x; i < dim; i += kThreads) {
        const float apart = simt::load(x + i) - mean;
        squares += apart * apart;
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, sums[1]) / float(dim) + s.eps);
    const auto normed = [&](int i) { return (simt::load(x + i) - mean) * scale * simt::load(weight + i) + simt::load(bias + i); };
    for (int j = threadIdx.x; j < half; j += kThreads) {
        const size_t angle = size_t(blockIdx.x) * half + j;
        const float2 pair = rotate(normed(j), normed(j + half), simt::load(cosines + angle), simt::load(sines + angle));
        key.put(j, pair.x);
        key.put(j + half, pair.y);
    }
    for (int i = 2 * half + threadIdx.x; i < dim; i += kThreads) key.put(i, normed(i));
    key.finish();
}

}  // namespace cachalot::kv_write

#define MLA_KV_WRITE(name, Row)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                        \
        name(uint8_t* cache, const float* kv_a, const float* weight, const float* cosines, const float* sines,                \
             const uint32_t* slots, cachalot::Fault* fault, cachalot::kv_write::MlaSizes sizes) {                             \
        cachalot::kv_write::mla<cachalot::row_writer::Row>(cache, kv_a, weight, cosines, sines, slots, fault, sizes);           \
    }                                                                                                                         \
    SIMT_EXPORT(name)

MLA_KV_WRITE(mla_kv_write_f32, PlainRow<float>)
MLA_KV_WRITE(mla_kv_write_bf16, PlainRow<__nv_bfloat16>)
MLA_KV_WRITE(mla_kv_write_fp8, LatentRow)

#define GQA_KV_WRITE(name, T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                        \
        name(T* cache, const float* k, const float* v, const float* cosines, const float* sines, const uint32_t* slots,       \
             cachalot::Fault* fault, cachalot::kv_write::GqaSizes sizes) {                                                    \
        cachalot::kv_write::gqa<T>(cache, k, v, cosines, sines, slots, fault, sizes);                                         \
    }                                                                                                                         \
    SIMT_EXPORT(name)

GQA_KV_WRITE(gqa_kv_write_f32, float)
GQA_KV_WRITE(gqa_kv_write_bf16, __nv_bfloat16)

#define INDEX_KEY_WRITE(name, Key)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                        \
        name(uint8_t* cache, const float* k, const float* weight, const float* bias, const float* cosines, const float* sines, \
             const uint32_t* slots, cachalot::Fault* fault, cachalot::kv_write::IndexSizes sizes) {                           \
        cachalot::kv_write::index_key<cachalot::kv_write::Key>(cache, k, weight, bias, cosines, sines, slots, fault, sizes);  \
    }                                                                                                                         \
    SIMT_EXPORT(name)

INDEX_KEY_WRITE(index_key_write_f32, PlainKey<float>)
INDEX_KEY_WRITE(index_key_write_bf16, PlainKey<__nv_bfloat16>)
INDEX_KEY_WRITE(index_key_write_fp8, PackedKey)
