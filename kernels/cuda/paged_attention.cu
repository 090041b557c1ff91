// Softmax attention over the paged cache, MLA and GQA alike: all keys of a sequence, or those of an index list.
#include "attention_kernel.cuh"

namespace cachalot::attention {

/// The rows of a sequence's blocks.
struct PagedKeys : Args {
    using Layout = cache_row::LatentLayout;
    /// The block as the table has it, and the row in it: nobody waits for the table.
    struct Place {
        uint32_t block, row;  // row is kUnused where there is nothing to read
    };

    __device__ __forceinline__ const uint8_t* address(const Place& place) const {
        if (place.row == kUnused || !index_in_range(fault, kBlock, place.block, sizes.blocks)) return nullptr;
        return cache + (size_t(place.block) * sizes.block_size + place.row) * sizes.row_bytes;
    }
    __device__ __forceinline__ Place find_key(const Work& work, uint32_t key) const {
        if (key >= work.end) return {kUnused, kUnused};
        if (sizes.topk) {
            key = simt::load(indices + size_t(work.first_token) * sizes.topk + key);
            if (key == kUnused || !index_in_range(fault, kIndex, key, work.visible(work.first_token))) return {kUnused, kUnused};
        }
        uint32_t block = simt::load(block_tables + size_t(work.sequence.index) * sizes.table_width + key / sizes.block_size);
        return {block, key % sizes.block_size};
    }
    __device__ __forceinline__ bool sees(uint32_t token, uint32_t visible, uint32_t key) const {
        if (sizes.topk == 0) return key < visible;
        return simt::load(indices + size_t(token) * sizes.topk + key) < visible;
    }
    __device__ __forceinline__ uint32_t most_keys(const Sequence& s) const { return sizes.topk ? sizes.topk : s.context; }
    __device__ __forceinline__ uint32_t last_key(const Work& work, uint32_t token) const {
        return sizes.topk ? sizes.topk : work.visible(token);
    }
    __device__ __forceinline__ float sink(uint32_t, float) const { return 0.0f; }
};

}  // namespace cachalot::attention

#define PAGED_ATTENTION(name, T, pairs, columns, blocks_per_sm)                                                               \
    extern "C" __global__ void __launch_bounds__(256, blocks_per_sm)                                                          \
        name(const uint8_t* q, const uint8_t* cache, const uint32_t* query_start, const uint32_t* context_lens,                \
             const uint32_t* block_tables, const uint32_t* indices, T* out, float* partial_values, float* partial_states,      \
             cachalot::Fault* fault, cachalot::attention::Sizes sizes) {                                                       \
        using cachalot::attention::PagedKeys;                                                                                  \
        cachalot::attention::attend<T, pairs, columns>(                                                                        \
            PagedKeys{{q, cache, query_start, context_lens, block_tables, indices, fault, sizes}}, out,                        \
            {partial_values, partial_states});                                                                                 \
    }                                                                                                                          \
    SIMT_EXPORT(name)

#define ATTENTION_COMBINE(name, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                                         \
        name(const uint32_t* query_start, const uint32_t* context_lens, T* out, float* partial_values, float* partial_states,  \
             cachalot::Fault* fault, cachalot::attention::Sizes sizes) {                                                       \
        using cachalot::attention::PagedKeys;                                                                                  \
        cachalot::attention::combine(PagedKeys{{nullptr, nullptr, query_start, context_lens, nullptr, nullptr, fault, sizes}}, \
                                     out, {partial_values, partial_states});                                                   \
    }                                                                                                                          \
    SIMT_EXPORT(name)

ATTENTION_COMBINE(attention_combine_f32, float)
ATTENTION_COMBINE(attention_combine_bf16, __nv_bfloat16)

// Pairs of a tile x value columns that fit: 64 columns per fragment of the eight warps. Where the accumulators or the
// shared memory leave room for one block on an SM only, it may have all registers.
PAGED_ATTENTION(paged_attention_f32_16x128, float, 16, 2, 2)
PAGED_ATTENTION(paged_attention_f32_16x256, float, 16, 4, 2)
PAGED_ATTENTION(paged_attention_f32_16x512, float, 16, 8, 2)
PAGED_ATTENTION(paged_attention_bf16_16x128, __nv_bfloat16, 16, 2, 2)
PAGED_ATTENTION(paged_attention_bf16_16x256, __nv_bfloat16, 16, 4, 2)
PAGED_ATTENTION(paged_attention_bf16_16x512, __nv_bfloat16, 16, 8, 2)
PAGED_ATTENTION(paged_attention_bf16_64x128, __nv_bfloat16, 64, 2, 2)
PAGED_ATTENTION(paged_attention_bf16_64x256, __nv_bfloat16, 64, 4, 1)
PAGED_ATTENTION(paged_attention_bf16_64x512, __nv_bfloat16, 64, 8, 1)
