// The step's rows into the rings of their sequences: one token per blockIdx.x, units of a row by thread and blockIdx.y.
#include "sequence_state.cuh"

namespace cachalot::state {

/// Of a sequence with more new tokens than the ring has rows, the last ones.
template <class Unit>
__device__ __forceinline__ void ring_write(const Lists& lists, const Unit* rows, Unit* ring, const StepSizes& s, uint32_t ring_rows,
                                           uint32_t width) {
    const Token token = find_token(lists, s, blockIdx.x);
    const uint32_t at = blockIdx.y * blockDim.x + threadIdx.x;
    if (at >= width || token.slot == kNone || token.context - token.position > ring_rows) return;
    Unit* row = ring + (size_t(token.slot) * ring_rows + token.position % ring_rows) * width;
    simt::store(row + at, simt::load(rows + size_t(blockIdx.x) * width + at));
}

}  // namespace cachalot::state

#define RING_WRITE(bytes, Unit)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                        \
        ring_write_##bytes(const Unit* __restrict__ rows, Unit* __restrict__ ring, const uint32_t* query_start,               \
                           const uint32_t* context_lens, const uint32_t* block_tables, const uint32_t* state_slots,           \
                           cachalot::Fault* fault, cachalot::state::StepSizes sizes, uint32_t ring_rows, uint32_t width) {    \
        cachalot::state::ring_write({query_start, context_lens, block_tables, state_slots, fault}, rows, ring, sizes,         \
                                    ring_rows, width);                                                                        \
    }                                                                                                                         \
    SIMT_EXPORT(ring_write_##bytes)

RING_WRITE(2, uint16_t)
RING_WRITE(4, uint32_t)
RING_WRITE(16, uint4)
