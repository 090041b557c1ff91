// Activations to INT8 with one scale per row: scale = max |x| / 127, code = x / scale to the nearest, ties to even.
//
// One block per row. The second pass reads the row again, some KB that the first has left in the caches: a row is as
// wide as a hidden layer, so shared memory for it would cost more blocks than the second read costs time.
#include "element.cuh"
#include "reduce.cuh"

namespace cachalot {

/// Eight codes at a time are 16 bytes of bf16; other widths go one by one, since their rows start anywhere.
template <int N, class T>
__device__ __forceinline__ void quantize_row(const T* x, int8_t* codes, float* scale, uint32_t dim) {
    __shared__ float part[32];
    const uint32_t first = threadIdx.x * N, step = blockDim.x * N;
    float largest = 0.0f;
    for (uint32_t at = first; at < dim; at += step) {
        const Run<float, N> run = load_run<N>(x + at);
#pragma unroll
        for (int i = 0; i < N; i++) largest = max_or_nan(largest, fabsf(run.value[i]));
    }
    largest = block_max(largest, part);
    // NaN or an infinity becomes a scale of NaN, and so every product of the row.
    const float unit = largest < __uint_as_float(0x7f800000u) ? largest / 127.0f : __uint_as_float(0x7fc00000u);
    if (threadIdx.x == 0) simt::store(scale, unit);
    for (uint32_t at = first; at < dim; at += step) {
        const Run<float, N> run = load_run<N>(x + at);
        Run<int8_t, N> out;
#pragma unroll
        for (int i = 0; i < N; i++) out.value[i] = unit > 0.0f ? int8_t(rintf(fminf(fmaxf(run.value[i] / unit, -127.0f), 127.0f))) : int8_t(0);
        simt::store(reinterpret_cast<Run<int8_t, N>*>(codes + at), out);
    }
}

template <class T>
__device__ __forceinline__ void quantize_rows(const T* x, int8_t* codes, float* scales, uint32_t dim) {
    const size_t row = size_t(blockIdx.x) * dim;
    if (dim % 8 == 0)
        quantize_row<8>(x + row, codes + row, scales + blockIdx.x, dim);
    else
        quantize_row<1>(x + row, codes + row, scales + blockIdx.x, dim);
}

}  // namespace cachalot

// x and codes [rows, dim], scales [rows].
#define QUANTIZE_ROWS(name, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        name(const T* __restrict__ x, int8_t* __restrict__ codes, float* __restrict__ scales, uint32_t dim) {      \
        cachalot::quantize_rows(x, codes, scales, dim);                                                            \
    }                                                                                                              \
    SIMT_EXPORT(name)

QUANTIZE_ROWS(quantize_rows_f32, float)
QUANTIZE_ROWS(quantize_rows_bf16, __nv_bfloat16)
