// Routed experts around the grouped matrix multiplication: slots sorted by expert, and the weighted sum of each token's
// experts. A slot is token * top_k + k.
#include "fault.cuh"
#include "simt/device.h"

namespace moe {

constexpr uint32_t kNone = 0xffffffffu;

/// Each expert's first tile: the running sum of its tiles. The first warp only; returns nothing, writes `first_tile`.
__device__ __forceinline__ void place_experts(const uint32_t* counts, uint32_t* first_tile, uint32_t experts, uint32_t tile_rows) {
    const uint32_t lane = simt::lane_id();
    uint32_t before = 0;
    for (uint32_t base = 0; base < experts; base += 32) {
        const uint32_t expert = base + lane;
        const uint32_t tiles = expert < experts ? (counts[expert] + tile_rows - 1) / tile_rows : 0;
        uint32_t sum = tiles;
        for (uint32_t step = 1; step < 32; step *= 2) {
            const uint32_t lower = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) sum += lower;
        }
        if (expert < experts) first_tile[expert] = before + sum - tiles;
        before += __shfl_sync(0xffffffffu, sum, 31);
    }
}

}  // namespace moe

// Sorts slots by expert into tiles of `tile_rows` rows that belong to one expert each, by a single block. Padding and
// unused tiles are 0xffffffff. The order of an expert's slots is left to chance: no result depends on it.
// ids [slots]; out: sorted [tiles * tile_rows], tile_experts [tiles]. Dynamic shared memory: 2 words per expert.
extern "C" __global__ void __launch_bounds__(1024)
    moe_align(cachalot::Fault* fault, const uint32_t* ids, uint32_t* sorted, uint32_t* tile_experts, uint32_t slots, uint32_t experts, uint32_t tiles,
              uint32_t tile_rows) {
    SIMT_DYNAMIC_SHARED(uint32_t, counts);
    uint32_t* next = counts + experts;
    for (uint32_t i = threadIdx.x; i < experts; i += blockDim.x) counts[i] = 0;
    for (uint32_t i = threadIdx.x; i < tiles; i += blockDim.x) simt::store(tile_experts + i, moe::kNone);
    for (uint32_t i = threadIdx.x; i < tiles * tile_rows; i += blockDim.x) simt::store(sorted + i, moe::kNone);
    __syncthreads();
    for (uint32_t slot = threadIdx.x; slot < slots; slot += blockDim.x) {
        const uint32_t expert = simt::load(ids + slot);
        if (cachalot::index_in_range(fault, cachalot::kExpert, expert, experts)) atomicAdd(counts + expert, 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) moe::place_experts(counts, next, experts, tile_rows);
    __syncthreads();
    for (uint32_t expert = threadIdx.x; expert < experts; expert += blockDim.x) {
        const uint32_t first = next[expert], count = (counts[expert] + tile_rows - 1) / tile_rows;
        for (uint32_t i = 0; i < count; i++) simt::store(tile_experts + first + i, expert);
        next[expert] = first * tile_rows;
    }
    __syncthreads();
    for (uint32_t slot = threadIdx.x; slot < slots; slot += blockDim.x) {
        const uint32_t expert = simt::load(ids + slot);
        if (expert < experts) simt::store(sorted + atomicAdd(next + expert, 1u), slot);
    }
}
SIMT_EXPORT(moe_align)

// out[t, n] f32 = the sum over k, in order, of weights[t, k] times row (t, k) of y, whose parts [splits, T * top_k, dim]
// are summed first. Slots whose expert does not exist have no row. blockIdx.x is the token.
extern "C" __global__ void __launch_bounds__(128)
    moe_combine(const float* y, const uint32_t* ids, const float* weights, float* out, uint32_t splits, uint32_t slots, uint32_t dim,
                uint32_t top_k, uint32_t experts) {
    const uint32_t token = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= dim) return;
    float total = 0.0f;
    for (uint32_t slot = token * top_k; slot < (token + 1) * top_k; slot++) {
        if (simt::load(ids + slot) >= experts) continue;
        float sum = 0.0f;
        for (uint32_t s = 0; s < splits; s++) sum += simt::load(y + (size_t(s) * slots + slot) * dim + column);
        total += simt::load(weights + slot) * sum;
    }
    simt::store(out + size_t(token) * dim + column, total);
}
SIMT_EXPORT(moe_combine)
