// Index queries as the releases compare them with their packed keys: a warp rotates a head in shared memory and rounds it, to
// e4m3 values, whose scale goes into the head's weight, or to e2m1 values times the scales of each 32.
#include "index_vector.cuh"

namespace cachalot::hadamard {

constexpr int kWarps = 4;

}  // namespace cachalot::hadamard

// q [rows, dim], weights [rows], both in place; shared memory holds a row for each warp.
extern "C" __global__ void __launch_bounds__(128)
    hadamard_fp8(float* __restrict__ q, float* __restrict__ weights, uint32_t rows, uint32_t dim) {
    SIMT_DYNAMIC_SHARED(float, memory);
    const uint32_t warp = threadIdx.x / 32, lane = simt::lane_id(), at = blockIdx.x * cachalot::hadamard::kWarps + warp;
    if (at >= rows) return;  // whole warps
    float *row = memory + warp * dim, *head = q + size_t(at) * dim;
    for (uint32_t i = lane; i < dim; i += 32) row[i] = simt::load(head + i);
    __syncwarp();
    cachalot::index_vector::rotate(row, dim);
    const float scale = cachalot::index_vector::fp8_scale(row, dim);
    for (uint32_t i = lane; i < dim; i += 32)
        simt::store(head + i, simt::fp8_e4m3_to_float(cachalot::cache_row::float_to_fp8_e4m3(row[i] / scale)));
    if (lane == 0) simt::store(weights + at, simt::load(weights + at) * scale);
}
SIMT_EXPORT(hadamard_fp8)

// q [rows, dim], in place; shared memory as above.
extern "C" __global__ void __launch_bounds__(128) hadamard_fp4(float* __restrict__ q, uint32_t rows, uint32_t dim) {
    SIMT_DYNAMIC_SHARED(float, memory);
    const uint32_t warp = threadIdx.x / 32, lane = simt::lane_id(), at = blockIdx.x * cachalot::hadamard::kWarps + warp;
    if (at >= rows) return;  // whole warps
    float *row = memory + warp * dim, *head = q + size_t(at) * dim;
    for (uint32_t i = lane; i < dim; i += 32) row[i] = simt::load(head + i);
    __syncwarp();
    cachalot::index_vector::round_fp4(head, row, dim);
}
SIMT_EXPORT(hadamard_fp4)
