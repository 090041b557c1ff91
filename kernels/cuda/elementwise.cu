// Row plumbing: casts, residual add, row gather, column concatenation.
#include "fault.cuh"
#include "simt/device.h"

namespace cachalot {

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16(value);
}

/// x[i] += y[i].
__device__ __forceinline__ void add_assign(float* x, const float* y, uint64_t n) {
    uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) simt::store(x + i, simt::load(x + i) + simt::load(y + i));
}

}  // namespace cachalot

extern "C" __global__ void __launch_bounds__(256) add_assign_f32(float* __restrict__ x, const float* __restrict__ y, uint64_t n) {
    cachalot::add_assign(x, y, n);
}
SIMT_EXPORT(add_assign_f32)

extern "C" __global__ void __launch_bounds__(256) cast_f32_bf16(const float* __restrict__ x, __nv_bfloat16* __restrict__ y, uint64_t n) {
    uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) simt::store(y + i, cachalot::from_float<__nv_bfloat16>(simt::load(x + i)));
}
SIMT_EXPORT(cast_f32_bf16)
