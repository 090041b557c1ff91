// Joins column blocks that arrived one after the other.
#include "simt/device.h"

namespace cachalot {

/// Copies `width` columns of block [rows, block_width] to columns begin.. of out [rows, out_width], all counted in units of
/// T: the largest that divides every size, so that a warp moves whole lines where the columns allow it. One row per
/// blockIdx.x.
template <class T>
__device__ __forceinline__ void place_cols(const T* block, T* out, uint32_t width, uint32_t block_width, uint32_t begin,
                                           uint32_t out_width) {
    uint64_t row = blockIdx.x;
    uint32_t col = blockIdx.y * blockDim.x + threadIdx.x;
    if (col < width) simt::store(out + row * out_width + begin + col, simt::load(block + row * block_width + col));
}

}  // namespace cachalot

#define PLACE_COLS(T, bytes)                                                                    \
    extern "C" __global__ void __launch_bounds__(256) place_cols_##bytes(                       \
        const T* __restrict__ block, T* __restrict__ out, uint32_t width, uint32_t block_width, uint32_t begin, \
        uint32_t out_width) {                                                                   \
        cachalot::place_cols<T>(block, out, width, block_width, begin, out_width);              \
    }                                                                                           \
    SIMT_EXPORT(place_cols_##bytes)

PLACE_COLS(uint4, 16)
PLACE_COLS(uint32_t, 4)
PLACE_COLS(uint16_t, 2)
PLACE_COLS(uint8_t, 1)
