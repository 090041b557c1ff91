// Hyper-connections: the maps of a token's streams, their weighted sum, and their mix with a sublayer's output.
#include "reduce.cuh"
#include "simt/device.h"

namespace cachalot::hyper {

constexpr uint32_t kMaxStreams = 8, kMaxMaps = kMaxStreams * (2 + kMaxStreams);

/// kernels/src/cuda/hyper_connection.rs has the same struct.
struct MapSizes {
    uint32_t streams, width;  // S, S * D
    uint32_t maps;            // S (2 + S), or S before the head
    uint32_t iterations;
    float eps, norm_eps;
};

__device__ __forceinline__ float sigmoid(float value) { return 1.0f / (1.0f + expf(-value)); }

/// Divides `streams` values, `step` apart, by their sum.
__device__ __forceinline__ void normalise(float* line, uint32_t streams, uint32_t step, float eps) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < streams; i++) sum += line[i * step];
    for (uint32_t i = 0; i < streams; i++) line[i * step] /= sum + eps;
}

/// Makes the mix [S, S] of one warp doubly stochastic: lane i has row i and column i by turns.
__device__ __forceinline__ void sinkhorn(float* mix, const MapSizes& s) {
    const uint32_t lane = simt::lane_id(), n = s.streams;
    if (lane < n) {
        float most = -INFINITY, sum = 0.0f, *row = mix + lane * n;
        for (uint32_t k = 0; k < n; k++) most = fmaxf(most, row[k]);
        for (uint32_t k = 0; k < n; k++) sum += row[k] = expf(row[k] - most);
        for (uint32_t k = 0; k < n; k++) row[k] = row[k] / sum + s.eps;
    }
    for (uint32_t i = 0; i < s.iterations; i++) {
        __syncwarp();
        if (i && lane < n) normalise(mix + lane * n, n, 1, s.eps);
        __syncwarp();
        if (lane < n) normalise(mix + lane, n, n, s.eps);
    }
}

/// Maps of token blockIdx.x: x [S, D], mixed [M], scale [3] (or [1]), base [M].
__device__ __forceinline__ void maps(const float* x, const float* mixed, const float* scale, const float* base, float* out,
                                     const MapSizes& s) {
    __shared__ float part[32], map[kMaxMaps];
    x += size_t(blockIdx.x) * s.width, mixed += size_t(blockIdx.x) * s.maps, out += size_t(blockIdx.x) * s.maps;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < s.width; i += blockDim.x) {
        const float value = simt::load(x + i);
        squares += value * value;
    }
    const float factor = 1.0f / sqrtf(block_sum(squares, part) / float(s.width) + s.norm_eps);
    const uint32_t i = threadIdx.x;
    if (i < s.maps) {
        const uint32_t kind = min(i / s.streams, 2u);
        const float value = simt::load(mixed + i) * factor * simt::load(scale + kind) + simt::load(base + i);
        map[i] = kind == 0 ? sigmoid(value) + s.eps : kind == 1 ? 2.0f * sigmoid(value) : value;
    }
    __syncthreads();
    if (s.maps > s.streams && threadIdx.x < 32) sinkhorn(map + 2 * s.streams, s);
    __syncthreads();
    if (i < s.maps) simt::store(out + i, map[i]);
}

}  // namespace cachalot::hyper

extern "C" __global__ void __launch_bounds__(256)
    hyper_maps(const float* __restrict__ x, const float* __restrict__ mixed, const float* __restrict__ scale, const float* __restrict__ base,
               float* __restrict__ out, cachalot::hyper::MapSizes sizes) {
    cachalot::hyper::maps(x, mixed, scale, base, out, sizes);
}
SIMT_EXPORT(hyper_maps)

// out[t, d] = sum_j maps[t, j] x[t, j, d]; token blockIdx.x, columns by thread and blockIdx.y; maps have `width` columns.
extern "C" __global__ void __launch_bounds__(256)
    hyper_collapse(const float* __restrict__ x, const float* __restrict__ maps, float* __restrict__ out, uint32_t streams, uint32_t dim,
                   uint32_t width) {
    const size_t token = blockIdx.x;
    const uint32_t d = blockIdx.y * blockDim.x + threadIdx.x;
    if (d >= dim) return;
    float sum = 0.0f;
    for (uint32_t j = 0; j < streams; j++) sum += simt::load(maps + token * width + j) * simt::load(x + (token * streams + j) * dim + d);
    simt::store(out + token * dim + d, sum);
}
SIMT_EXPORT(hyper_collapse)

// x[t, k, d] = post[t, k] y[t, d] + sum_j mix[t, j, k] x[t, j, d], in place; as hyper_collapse.
extern "C" __global__ void __launch_bounds__(256)
    hyper_expand(float* __restrict__ x, const float* __restrict__ y, const float* __restrict__ maps, uint32_t streams, uint32_t dim) {
    using cachalot::hyper::kMaxStreams;
    const size_t token = blockIdx.x;
    const uint32_t d = blockIdx.y * blockDim.x + threadIdx.x;
    if (d >= dim) return;
    const float* post = maps + token * streams * (2 + streams) + streams;
    const float value = simt::load(y + token * dim + d);
    float old[kMaxStreams];
#pragma unroll
    for (uint32_t j = 0; j < kMaxStreams; j++) old[j] = j < streams ? simt::load(x + (token * streams + j) * dim + d) : 0.0f;
    for (uint32_t k = 0; k < streams; k++) {
        float sum = simt::load(post + k) * value;
#pragma unroll
        for (uint32_t j = 0; j < kMaxStreams; j++)
            if (j < streams) sum += simt::load(post + streams + j * streams + k) * old[j];
        simt::store(x + (token * streams + k) * dim + d, sum);
    }
}
SIMT_EXPORT(hyper_expand)

// Every row of x [T, dim] as `streams` equal ones; as hyper_collapse.
extern "C" __global__ void __launch_bounds__(256)
    hyper_spread(const float* __restrict__ x, float* __restrict__ out, uint32_t streams, uint32_t dim) {
    const size_t token = blockIdx.x;
    const uint32_t d = blockIdx.y * blockDim.x + threadIdx.x;
    if (d >= dim) return;
    const float value = simt::load(x + token * dim + d);
    for (uint32_t j = 0; j < streams; j++) simt::store(out + (token * streams + j) * dim + d, value);
}
SIMT_EXPORT(hyper_spread)
