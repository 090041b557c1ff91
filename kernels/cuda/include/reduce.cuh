// Sums and maxima over a warp and over a block, the same bits in every thread.
#pragma once
#include "simt/device.h"

namespace cachalot {

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = 16; step; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

/// The sum over a block of whole warps. `part` is shared memory for a float per warp, not in use before or after.
__device__ __forceinline__ float block_sum(float value, float* part) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += part[warp];
    return sum;
}

/// The largest over a warp; NaN does not count.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

/// The larger of two; NaN if either is.
__device__ __forceinline__ float max_or_nan(float a, float b) { return a > b || a != a ? a : b; }

/// The largest over a block of whole warps, NaN if there is one. `part` as for `block_sum`.
__device__ __forceinline__ float block_max(float value, float* part) {
#pragma unroll
    for (int step = 16; step; step /= 2) value = max_or_nan(value, __shfl_xor_sync(0xffffffffu, value, step));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    float largest = part[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; warp++) largest = max_or_nan(largest, part[warp]);
    return largest;
}

}  // namespace cachalot
