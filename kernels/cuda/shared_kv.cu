// The row that is key and value of all heads: norm, rope of its last channels and rounding in one pass, one block per token.
#include "element.cuh"
#include "reduce.cuh"

namespace cachalot {

/// out = rms_norm(x) * weight [dim], its last 2 * half columns rotated in interleaved pairs.
template <class T>
__device__ __forceinline__ void shared_kv(const float* x, const float* weight, const float* cosines, const float* sines, T* out, uint32_t dim,
                                          uint32_t half, float eps) {
    __shared__ float part[32];
    const size_t row = blockIdx.x;
    x += row * dim, out += row * dim, cosines += row * half, sines += row * half;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const float value = simt::load(x + i);
        squares += value * value;
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, part) / float(dim) + eps);
    const uint32_t nope = dim - 2 * half;
    const auto normed = [&](uint32_t i) { return simt::load(x + i) * scale * simt::load(weight + i); };
    for (uint32_t i = threadIdx.x; i < nope; i += blockDim.x) simt::store(out + i, from_float<T>(normed(i)));
    for (uint32_t j = threadIdx.x; j < half; j += blockDim.x) {
        const float even = normed(nope + 2 * j), odd = normed(nope + 2 * j + 1);
        const float cosine = simt::load(cosines + j), sine = simt::load(sines + j);
        simt::store(out + nope + 2 * j, from_float<T>(even * cosine - odd * sine));
        simt::store(out + nope + 2 * j + 1, from_float<T>(odd * cosine + even * sine));
    }
}

}  // namespace cachalot

#define SHARED_KV(name, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                        \
        name(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ cosines,                \
             const float* __restrict__ sines, T* __restrict__ out, uint32_t dim, uint32_t half, float eps) {                  \
        cachalot::shared_kv(x, weight, cosines, sines, out, dim, half, eps);                                                  \
    }                                                                                                                         \
    SIMT_EXPORT(name)

SHARED_KV(shared_kv_f32, float)
SHARED_KV(shared_kv_bf16, __nv_bfloat16)
