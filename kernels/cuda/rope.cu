// Rotary position embedding: the angles of a step, and the rotation of query heads in place.
#include "simt/device.h"

namespace cachalot {

/// One frequency per rotated pair, passed by value: they are constants of the model.
struct Frequencies {
    float value[128];
};

}  // namespace cachalot

// cos and sin [T, half] of positions[t] * frequency[j], times `factor`; positions are rounded down to multiples of
// `stride`. The angle is the f32 product, as references have
// it; positions run to 1e5 and more, which takes the full reduction of cosf and sinf.
extern "C" __global__ void __launch_bounds__(128)
    rope_table(const uint32_t* __restrict__ positions, float* __restrict__ cosines, float* __restrict__ sines, uint32_t tokens,
               uint32_t half, uint32_t stride, float factor, const __grid_constant__ cachalot::Frequencies frequencies) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= tokens * half) return;
    const uint32_t position = simt::load(positions + i / half);
    const float angle = float(position - position % stride) * frequencies.value[i % half];
    simt::store(cosines + i, cosf(angle) * factor);
    simt::store(sines + i, sinf(angle) * factor);
}
SIMT_EXPORT(rope_table)

// Rotates columns offset .. offset + 2 * half of every head of x [T, heads, dim]; token blockIdx.x, pairs by thread and
// blockIdx.y. A pair is channels 2j and 2j + 1 if interleaved, else j and j + half.
extern "C" __global__ void __launch_bounds__(256)
    rope_assign(float* __restrict__ x, const float* __restrict__ cosines, const float* __restrict__ sines, uint32_t heads, uint32_t dim,
                uint32_t offset, uint32_t half, uint32_t interleaved) {
    const uint32_t pair = blockIdx.y * blockDim.x + threadIdx.x, head = pair / half, j = pair % half;
    if (head >= heads) return;
    const size_t angle = size_t(blockIdx.x) * half + j;
    const float cosine = simt::load(cosines + angle), sine = simt::load(sines + angle);
    float* left = x + (size_t(blockIdx.x) * heads + head) * dim + offset + (interleaved ? 2 * j : j);
    float* right = left + (interleaved ? 1 : half);
    const float even = simt::load(left), odd = simt::load(right);
    simt::store(left, even * cosine - odd * sine);
    simt::store(right, odd * cosine + even * sine);
}
SIMT_EXPORT(rope_assign)
