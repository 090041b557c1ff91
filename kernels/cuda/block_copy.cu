// Whole blocks of a paged cache, copied within it: what makes a shared block a sequence's own before it is written.
#include "element.cuh"
#include "fault.cuh"

namespace cachalot {

/// Block pairs[blockIdx.x].x of cache [blocks, width] becomes block pairs[blockIdx.x].y; units by thread and blockIdx.y.
/// No block is the target of one pair and part of another, so that the order of pairs does not matter.
template <class Unit>
__device__ __forceinline__ void copy_blocks(Fault* fault, Unit* cache, const uint2* pairs, uint32_t blocks, uint32_t width) {
    const uint32_t at = blockIdx.y * blockDim.x + threadIdx.x;
    const uint2 pair = simt::load(pairs + blockIdx.x);
    if (at >= width || !index_in_range(fault, kBlockCopy, max(pair.x, pair.y), blocks)) return;
    simt::store(cache + size_t(pair.y) * width + at, simt::load(cache + size_t(pair.x) * width + at));
}

}  // namespace cachalot

#define COPY_BLOCKS(bytes, Unit)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        copy_blocks_##bytes(cachalot::Fault* fault, Unit* cache, const uint2* __restrict__ pairs, uint32_t blocks, uint32_t width) { \
        cachalot::copy_blocks(fault, cache, pairs, blocks, width);                                                     \
    }                                                                                                                  \
    SIMT_EXPORT(copy_blocks_##bytes)

COPY_BLOCKS(2, uint16_t)
COPY_BLOCKS(4, uint32_t)
COPY_BLOCKS(16, uint4)
