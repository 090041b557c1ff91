// Softmax of each row of x[rows, n], one block per row: warp shuffles, then a reduction across warps through shared
// memory that is used twice. Test kernel: the PLANT_* macros are its known bugs.
#include "simt/device.h"

namespace softmax_detail {

__device__ __forceinline__ float warp_max(float value) {
#ifdef PLANT_WRONG_MASK
    for (int step = 16; step; step /= 2) value = fmaxf(value, __shfl_xor_sync(0x0000ffffu, value, step));
#else
    for (int step = 16; step; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
#endif
    return value;
}

__device__ __forceinline__ float warp_sum(float value) {
    for (int step = 16; step; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

}  // namespace softmax_detail

extern "C" __global__ void __launch_bounds__(128) softmax(const float* __restrict__ x, float* __restrict__ y, int n) {
    using namespace softmax_detail;
    __shared__ float part[4];
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const float* row = x + size_t(blockIdx.x) * n;

    float largest = -INFINITY, total = 0.0f;
    for (int i = thread; i < n; i += 128) largest = fmaxf(largest, row[i]);
#ifdef PLANT_DIVERGENT_SHUFFLE
    if (thread < n) largest = warp_max(largest);
#else
    largest = warp_max(largest);
#endif
    if (lane == 0) part[warp] = largest;
#ifdef PLANT_DIVERGENT_BARRIER
    if (warp < 3) __syncthreads();
    if (warp == 3 && lane < 16) __syncwarp();
#else
    __syncthreads();
#endif
    largest = fmaxf(fmaxf(part[0], part[1]), fmaxf(part[2], part[3]));
#ifndef PLANT_SHARED_REUSE
    __syncthreads();  // everyone has read the maxima before the sums take their place
#endif
    for (int i = thread; i < n; i += 128) total += __expf(row[i] - largest);
    total = warp_sum(total);
    if (lane == 0) part[warp] = total;
    __syncthreads();
#ifdef PLANT_UNSET_SHARED
    if (warp == 0) total = part[0] + part[1] + part[2] + part[4];
#else
    total = part[0] + part[1] + part[2] + part[3];
#endif
    for (int i = thread; i < n; i += 128) y[size_t(blockIdx.x) * n + i] = __expf(row[i] - largest) / total;
}
SIMT_EXPORT(softmax)
