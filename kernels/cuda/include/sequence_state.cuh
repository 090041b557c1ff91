// Where a token of the step stands in its sequence, and which rows hold the sequence's last positions: those of the step's
// own tokens where they were computed, earlier ones in the slot of a ring (kernels/src/ops/state_ring.rs).
#pragma once
#include "paged_attention.cuh"

namespace cachalot::state {

/// The lists of a step; kernels/src/cuda/state_ring.rs has the same struct of sizes.
struct StepSizes {
    uint32_t tokens, sequences;                // T, B
    uint32_t blocks, block_size, table_width;  // tokens of a block
    uint32_t slots;                            // of the ring
};

struct Lists {
    const uint32_t *query_start, *context_lens, *block_tables, *state_slots;
    Fault* fault;
};

/// A token of the step. `slot` is kNone where the lists contradict each other.
struct Token {
    uint32_t sequence, slot;
    uint32_t first_row;        // of the sequence's new tokens
    uint32_t start, position;  // of the first of them, and of this one
    uint32_t context;          // tokens after the step
};

constexpr uint32_t kNone = 0xffffffffu;

__device__ __forceinline__ attention::Args paging(const Lists& lists, const StepSizes& s) {
    attention::Args a = {};
    a.query_start = lists.query_start, a.context_lens = lists.context_lens, a.block_tables = lists.block_tables, a.fault = lists.fault;
    a.sizes.tokens = s.tokens, a.sizes.sequences = s.sequences, a.sizes.tile_tokens = 1;
    a.sizes.blocks = s.blocks, a.sizes.block_size = s.block_size, a.sizes.table_width = s.table_width;
    return a;
}

/// Token number `token` of the step; whole warps ask.
__device__ __forceinline__ Token find_token(const Lists& lists, const StepSizes& s, uint32_t token) {
    attention::Sequence sequence;
    uint32_t of_sequence;
    if (!attention::find_tile(paging(lists, s), token, &sequence, &of_sequence)) return {0, kNone, 0, 0, 0, 0};
    const uint32_t start = sequence.context - sequence.tokens;
    uint32_t slot = simt::load(lists.state_slots + sequence.index);
    if (!index_in_range(lists.fault, kSlot, slot, s.slots)) slot = kNone;
    return {sequence.index, slot, sequence.start, start, start + of_sequence, sequence.context};
}

/// The row of `position`, which the ring still has; rows have `width` elements.
template <class T>
__device__ __forceinline__ const T* recent_row(const T* fresh, const T* ring, const Token& token, uint32_t position, uint32_t ring_rows,
                                               uint32_t width) {
    if (position >= token.start) return fresh + size_t(token.first_row + position - token.start) * width;
    return ring + (size_t(token.slot) * ring_rows + position % ring_rows) * width;
}

/// The row of entry `entry` of the token's sequence in a cache with `rows_per_block` entries to a block, or kNone.
__device__ __forceinline__ uint32_t entry_row(const Lists& lists, const StepSizes& s, const Token& token, uint32_t entry,
                                              uint32_t rows_per_block) {
    const uint32_t block = simt::load(lists.block_tables + size_t(token.sequence) * s.table_width + entry / rows_per_block);
    if (!index_in_range(lists.fault, kBlock, block, s.blocks)) return kNone;
    return block * rows_per_block + entry % rows_per_block;
}

}  // namespace cachalot::state
