// RMS normalisation of rows, alone and fused with the residual add.
//
// One block per row, which it keeps in shared memory between the two passes: each thread comes back to the elements
// that it put there itself, so a row is read from global memory once and needs no barrier but that of the sum.
#include "element.cuh"
#include "reduce.cuh"

namespace cachalot {

/// A row that is only read.
template <class T>
struct Plain {
    const T* x;
    template <int N>
    __device__ __forceinline__ Run<float, N> read(uint32_t at) const {
        return load_run<N>(x + at);
    }
};

/// A row that grows by another while it is read.
struct Added {
    float* sum;
    const float* x;
    template <int N>
    __device__ __forceinline__ Run<float, N> read(uint32_t at) const {
        Run<float, N> run = load_run<N>(sum + at);
        const Run<float, N> more = load_run<N>(x + at);
#pragma unroll
        for (int i = 0; i < N; i++) run.value[i] += more.value[i];
        store_run(sum + at, run);
        return run;
    }
};

/// out = row / sqrt(mean(row^2) + eps) * weight, `N` columns at a time.
template <int N, class Row, class Out>
__device__ __forceinline__ void norm_row(const Row& row, const float* weight, Out* out, uint32_t dim, float eps) {
    SIMT_DYNAMIC_SHARED(float, kept);
    __shared__ float part[32];
    const uint32_t first = threadIdx.x * N, step = blockDim.x * N;
    float squares = 0.0f;
    for (uint32_t at = first; at < dim; at += step) {
        const Run<float, N> x = row.template read<N>(at);
#pragma unroll
        for (int i = 0; i < N; i++) squares += x.value[i] * x.value[i];
        store_run(kept + at, x);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, part) / float(dim) + eps);
    for (uint32_t at = first; at < dim; at += step) {
        Run<float, N> x = load_run<N>(kept + at);
        const Run<float, N> w = load_run<N>(weight + at);
#pragma unroll
        for (int i = 0; i < N; i++) x.value[i] = x.value[i] * scale * w.value[i];
        store_run(out + at, x);
    }
}

/// Rows whose width is a multiple of four start on boundaries of four elements.
template <class Row, class Out>
__device__ __forceinline__ void norm(const Row& row, const float* weight, Out* out, uint32_t dim, float eps) {
    out += size_t(blockIdx.x) * dim;
    if (dim % 4 == 0)
        norm_row<4>(row, weight, out, dim, eps);
    else
        norm_row<1>(row, weight, out, dim, eps);
}

}  // namespace cachalot

// x and out [rows, dim], weight [dim].
#define RMS_NORM(name, In, Out)                                                                                      \
    extern "C" __global__ void __launch_bounds__(512)                                                                \
        name(const In* __restrict__ x, const float* __restrict__ weight, Out* __restrict__ out, uint32_t dim, float eps) { \
        cachalot::norm(cachalot::Plain<In>{x + size_t(blockIdx.x) * dim}, weight, out, dim, eps);                    \
    }                                                                                                                \
    SIMT_EXPORT(name)

// sum += x, then the norm of sum; all [rows, dim], weight [dim].
#define ADD_RMS_NORM(name, Out)                                                                                      \
    extern "C" __global__ void __launch_bounds__(512)                                                                \
        name(float* __restrict__ sum, const float* __restrict__ x, const float* __restrict__ weight, Out* __restrict__ out, \
             uint32_t dim, float eps) {                                                                              \
        const size_t row = size_t(blockIdx.x) * dim;                                                                 \
        cachalot::norm(cachalot::Added{sum + row, x + row}, weight, out, dim, eps);                                  \
    }                                                                                                                \
    SIMT_EXPORT(name)

RMS_NORM(rms_norm_f32_f32, float, float)
RMS_NORM(rms_norm_f32_bf16, float, __nv_bfloat16)
RMS_NORM(rms_norm_bf16_bf16, __nv_bfloat16, __nv_bfloat16)
ADD_RMS_NORM(add_rms_norm_f32, float)
ADD_RMS_NORM(add_rms_norm_bf16, __nv_bfloat16)

// x = x / sqrt(mean(x^2) + eps) of rows [dim], in place; one block per row.
extern "C" __global__ void __launch_bounds__(128) head_norm(float* __restrict__ x, uint32_t dim, float eps) {
    __shared__ float part[32];
    float* row = x + size_t(blockIdx.x) * dim;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const float value = simt::load(row + i);
        squares += value * value;
    }
    const float scale = 1.0f / sqrtf(cachalot::block_sum(squares, part) / float(dim) + eps);
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) simt::store(row + i, simt::load(row + i) * scale);
}
SIMT_EXPORT(head_norm)
