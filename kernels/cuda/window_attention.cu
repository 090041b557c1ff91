// Softmax attention over the last tokens and over compressed entries of the earlier ones, with a sink; a row is key and value
// of all heads. A token's keys are its window, oldest first, then its entries, listed or all: one order, whatever else is in
// the step.
#include "attention_kernel.cuh"

namespace cachalot::attention {

/// kernels/src/cuda/window_attention.rs has the same struct.
struct Window {
    uint32_t rows, ring_rows, slots;  // a slot has at least the window's rows
    uint32_t ratio, rows_per_block;   // tokens of an entry, 0 without entries; entries of a block
};

/// `cache` and `indices` are those of the entries; a tile has one token.
struct WindowKeys : Args {
    using Layout = cache_row::SharedKvLayout;
    const uint8_t *fresh, *ring;  // [T] and [slots, ring_rows] rows
    const uint32_t* state_slots;  // [B]
    const float* sinks;           // [heads]
    Window window;

    /// A row of the window, or a block as the table has it and the entry in it: nobody waits for the table.
    struct Place {
        const uint8_t* recent;
        uint32_t block, row;  // row is kUnused where there is nothing to read
    };

    __device__ __forceinline__ uint32_t recent(uint32_t visible) const { return min(visible, window.rows); }
    __device__ __forceinline__ uint32_t entries(uint32_t visible) const { return window.ratio ? visible / window.ratio : 0; }

    __device__ __forceinline__ const uint8_t* address(const Place& place) const {
        if (place.recent) return place.recent;
        if (place.row == kUnused || !index_in_range(fault, kBlock, place.block, sizes.blocks)) return nullptr;
        return cache + (size_t(place.block) * window.rows_per_block + place.row) * sizes.row_bytes;
    }
    __device__ __forceinline__ Place find_key(const Work& work, uint32_t key) const {
        constexpr Place none = {nullptr, kUnused, kUnused};
        if (key >= work.end) return none;
        const Sequence& sequence = work.sequence;
        const uint32_t visible = work.visible(work.first_token), in_window = recent(visible);
        if (key < in_window) {
            const uint32_t position = visible - in_window + key, start = sequence.context - sequence.tokens;
            if (position >= start) return {fresh + size_t(sequence.start + position - start) * sizes.row_bytes, 0, 0};
            const uint32_t slot = simt::load(state_slots + sequence.index);
            if (!index_in_range(fault, kSlot, slot, window.slots)) return none;
            return {ring + (size_t(slot) * window.ring_rows + position % window.ring_rows) * sizes.row_bytes, 0, 0};
        }
        uint32_t entry = key - in_window;
        if (sizes.topk) {
            entry = simt::load(indices + size_t(work.first_token) * sizes.topk + entry);
            if (entry == kUnused || !index_in_range(fault, kIndex, entry, entries(visible))) return none;
        }
        const uint32_t in_table = entry / window.rows_per_block;
        const uint32_t block = simt::load(block_tables + size_t(sequence.index) * sizes.table_width + in_table);
        return {nullptr, block, entry % window.rows_per_block};
    }
    __device__ __forceinline__ bool sees(uint32_t token, uint32_t visible, uint32_t key) const {
        if (key < recent(visible) || sizes.topk == 0) return true;
        return simt::load(indices + size_t(token) * sizes.topk + key - recent(visible)) < entries(visible);
    }
    __device__ __forceinline__ uint32_t most_keys(const Sequence& s) const {
        return window.rows + (sizes.topk ? sizes.topk : entries(s.context));
    }
    __device__ __forceinline__ uint32_t last_key(const Work& work, uint32_t token) const {
        const uint32_t visible = work.visible(token);
        return recent(visible) + (sizes.topk ? sizes.topk : entries(visible));
    }
    __device__ __forceinline__ float sink(uint32_t head, float max) const { return __expf(simt::load(sinks + head) - max); }
};

}  // namespace cachalot::attention

#define WINDOW_ATTENTION(name, T, pairs, columns, blocks_per_sm)                                                              \
    extern "C" __global__ void __launch_bounds__(256, blocks_per_sm)                                                         \
        name(const uint8_t* q, const uint8_t* fresh, const uint8_t* ring, const uint8_t* entries, const uint32_t* indices,    \
             const float* sinks, const uint32_t* query_start, const uint32_t* context_lens, const uint32_t* block_tables,     \
             const uint32_t* state_slots, float* out, float* partial_values, float* partial_states, cachalot::Fault* fault,   \
             cachalot::attention::Sizes sizes, cachalot::attention::Window window) {                                          \
        using cachalot::attention::WindowKeys;                                                                                \
        cachalot::attention::attend<T, pairs, columns>(                                                                       \
            WindowKeys{{q, entries, query_start, context_lens, block_tables, indices, fault, sizes},                          \
                       fresh, ring, state_slots, sinks, window},                                                              \
            out, {partial_values, partial_states});                                                                           \
    }                                                                                                                         \
    SIMT_EXPORT(name)

extern "C" __global__ void __launch_bounds__(128)
    window_combine(const float* sinks, const uint32_t* query_start, const uint32_t* context_lens, float* out,
                   float* partial_values, float* partial_states, cachalot::Fault* fault, cachalot::attention::Sizes sizes,
                   cachalot::attention::Window window) {
    using cachalot::attention::WindowKeys;
    cachalot::attention::combine(
        WindowKeys{{nullptr, nullptr, query_start, context_lens, nullptr, nullptr, fault, sizes}, nullptr, nullptr, nullptr, sinks, window},
        out, {partial_values, partial_states});
}
SIMT_EXPORT(window_combine)

// As those of paged_attention.cu.
WINDOW_ATTENTION(window_attention_f32_16x128, float, 16, 2, 2)
WINDOW_ATTENTION(window_attention_f32_16x512, float, 16, 8, 2)
WINDOW_ATTENTION(window_attention_bf16_16x128, __nv_bfloat16, 16, 2, 2)
WINDOW_ATTENTION(window_attention_bf16_16x512, __nv_bfloat16, 16, 8, 2)
WINDOW_ATTENTION(window_attention_bf16_64x128, __nv_bfloat16, 64, 2, 2)
WINDOW_ATTENTION(window_attention_bf16_64x512, __nv_bfloat16, 64, 8, 1)
