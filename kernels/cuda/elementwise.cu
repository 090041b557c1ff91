// Row plumbing: casts, residual add, row gather, column concatenation.
#include "element.cuh"
#include "fault.cuh"

namespace cachalot {

/// x[i] += y[i].
__device__ __forceinline__ void add_assign(float* x, const float* y, uint64_t n) {
    uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) simt::store(x + i, simt::load(x + i) + simt::load(y + i));
}

/// Row rows[blockIdx.x] of x [tokens, width] becomes row blockIdx.x of y; units by thread and blockIdx.y.
template <class Unit>
__device__ __forceinline__ void gather_rows(Fault* fault, const Unit* x, const uint32_t* rows, Unit* y, uint32_t tokens, uint32_t width) {
    const uint32_t at = blockIdx.y * blockDim.x + threadIdx.x, row = simt::load(rows + blockIdx.x);
    if (at >= width || !index_in_range(fault, kRow, row, tokens)) return;
    simt::store(y + size_t(blockIdx.x) * width + at, simt::load(x + size_t(row) * width + at));
}

/// Row blockIdx.x of y [T, left + right] is that of a [T, left], then that of b [T, right].
template <class Unit>
__device__ __forceinline__ void concat_cols(const Unit* a, const Unit* b, Unit* y, uint32_t left, uint32_t right) {
    const uint32_t at = blockIdx.y * blockDim.x + threadIdx.x;
    const size_t row = blockIdx.x;
    if (at >= left + right) return;
    const Unit* from = at < left ? a + row * left + at : b + row * right + (at - left);
    simt::store(y + row * (left + right) + at, simt::load(from));
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

// Rows are moved in the largest unit that divides them, whatever their elements are.
#define ROW_COPIES(bytes, Unit)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
        gather_rows_##bytes(cachalot::Fault* fault, const Unit* __restrict__ x, const uint32_t* __restrict__ rows,         \
                            Unit* __restrict__ y, uint32_t tokens, uint32_t width) {                                       \
        cachalot::gather_rows(fault, x, rows, y, tokens, width);                                                           \
    }                                                                                                                      \
    SIMT_EXPORT(gather_rows_##bytes)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
        concat_cols_##bytes(const Unit* __restrict__ a, const Unit* __restrict__ b, Unit* __restrict__ y, uint32_t left,   \
                            uint32_t right) {                                                                              \
        cachalot::concat_cols(a, b, y, left, right);                                                                       \
    }                                                                                                                      \
    SIMT_EXPORT(concat_cols_##bytes)

ROW_COPIES(2, uint16_t)
ROW_COPIES(4, uint32_t)
ROW_COPIES(16, uint4)

extern "C" __global__ void __launch_bounds__(256) cast_bf16_f32(const __nv_bfloat16* __restrict__ x, float* __restrict__ y, uint64_t n) {
    uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) simt::store(y + i, __bfloat162float(simt::load(x + i)));
}
SIMT_EXPORT(cast_bf16_f32)
