// The row that is key and value of all heads: norm, rope of its last channels and rounding in one pass, one block per token.
#include "reduce.cuh"
#include "row_writer.cuh"

namespace cachalot {

/// out = rms_norm(x) * weight [dim], its last 2 * half columns rotated in interleaved pairs.
template <class Row>
__device__ __forceinline__ void shared_kv(const float* x, const float* weight, const float* cosines, const float* sines, uint8_t* out,
                                          uint32_t dim, uint32_t half, uint32_t row_bytes, float eps) {
    __shared__ float part[32];
    x += size_t(blockIdx.x) * dim;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const float value = simt::load(x + i);
        squares += value * value;
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, part) / float(dim) + eps);
    const int nope = dim - 2 * half;
    const size_t angles = size_t(blockIdx.x) * half;
    const Row row(out + size_t(blockIdx.x) * row_bytes, nope);
    const auto normed = [&](int i) { return simt::load(x + i) * scale * simt::load(weight + i); };
    row_writer::put_channels(row, nope, normed);
    row_writer::put_rotated(row, half, cosines + angles, sines + angles, [&](int c) { return normed(nope + c); });
}

}  // namespace cachalot

#define SHARED_KV(name, Row)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                        \
        name(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ cosines,                \
             const float* __restrict__ sines, uint8_t* __restrict__ out, uint32_t dim, uint32_t half, uint32_t row_bytes,     \
             float eps) {                                                                                                     \
        cachalot::shared_kv<cachalot::row_writer::Row>(x, weight, cosines, sines, out, dim, half, row_bytes, eps);            \
    }                                                                                                                         \
    SIMT_EXPORT(name)

SHARED_KV(shared_kv_f32, PlainRow<float>)
SHARED_KV(shared_kv_bf16, PlainRow<__nv_bfloat16>)
SHARED_KV(shared_kv_fp8, SharedKvRow)
