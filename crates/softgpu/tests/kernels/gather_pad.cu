// y[rows, width] = x[row_index[r], :used], the rest of each row zero: cp.async with zero fill in 4, 8 and 16 byte steps.
// width is a multiple of 16 bytes. Test kernel: the PLANT_* macros are its known bugs.
#include "simt/device.h"

namespace gather_pad_detail {

template <int Bytes>
__device__ __forceinline__ void copy_row(char* row, const char* source, int used, int width) {
    for (int at = threadIdx.x * Bytes; at < width; at += blockDim.x * Bytes) {
        int read = min(max(used - at, 0), Bytes);
        // With nothing to read the address must still be a valid one.
        simt::cp_async_zfill<Bytes>(row + at, source + (read ? at : 0), read);
    }
}

}  // namespace gather_pad_detail

extern "C" __global__ void __launch_bounds__(32)
    gather_pad(const char* __restrict__ x, const int* __restrict__ row_index, char* __restrict__ y, int used, int width, int step) {
    SIMT_DYNAMIC_SHARED(char, row);
    const char* source = x + size_t(row_index[blockIdx.x]) * width;
    if (step == 4)
        gather_pad_detail::copy_row<4>(row, source, used, width);
    else if (step == 8)
        gather_pad_detail::copy_row<8>(row, source, used, width);
    else
        gather_pad_detail::copy_row<16>(row, source, used, width);
    simt::cp_async_commit();
#ifndef PLANT_NO_WAIT
    simt::cp_async_wait<0>();
#endif
#ifdef PLANT_SHARED_OVERFLOW
    if (threadIdx.x == 0) row[width] = 1;
#endif
    __syncthreads();
    // Backwards, so that no thread writes out what it copied itself.
    for (int at = (31 - threadIdx.x) * 16; at < width; at += 32 * 16)
        simt::store(reinterpret_cast<int4*>(y + size_t(blockIdx.x) * width + at), *reinterpret_cast<const int4*>(row + at));
}
SIMT_EXPORT(gather_pad)
