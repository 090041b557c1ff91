// The instances of the matrix multiplication `gemm_<weight>_<operand>_m<rows of a tile>`, and the sums of split products.
#include "gemm_tile.cuh"

namespace gemm {

// Two warps of 64 x 32 by four for prefill: 24 KB of shared memory traffic per 128 KB of operands in registers.
using Tile128 = Tile<128, 128, 64, 2, 4, 1, 3>;
// Few rows per matrix: weights are half of the traffic, and two blocks share an SM.
using Tile64 = Tile<64, 128, 64, 2, 4, 1, 3>;
// Decode. Weights are all of the traffic, so what counts is bytes in flight: narrow tiles give many blocks, the warps
// also divide K, and with three of four stages on the way an SM has some 24 KB of fp8 requested per block.
using Tile16 = Tile<16, 64, 128, 1, 2, 4, 4>;
// Float operands take twice the room.
using Tile16Float = Tile<16, 64, 128, 1, 2, 4, 3>;

}  // namespace gemm

#define GEMM(name, format, operand, tile, blocks)                                                                         \
    extern "C" __global__ void __launch_bounds__(256, blocks)                                                             \
        name(const void* x, const unsigned char* weight, const void* scales, const unsigned char* zeros,                  \
             const unsigned char* up, const void* up_scales, const unsigned char* up_zeros, const float* bias,            \
             const float* x_scales, const uint32_t* slots, const uint32_t* tile_experts, void* out, gemm::Problem problem) { \
        gemm::multiply<gemm::format, operand, gemm::tile>(                                                                \
            {x, {weight, scales, zeros}, {up, up_scales, up_zeros}, bias, x_scales, slots, tile_experts, out, problem});  \
    }                                                                                                                     \
    SIMT_EXPORT(name)

#define GEMM_BF16(stored, format)                                         \
    GEMM(gemm_##stored##_bf16_m16, format, __nv_bfloat16, Tile16, 2)      \
    GEMM(gemm_##stored##_bf16_m64, format, __nv_bfloat16, Tile64, 2)      \
    GEMM(gemm_##stored##_bf16_m128, format, __nv_bfloat16, Tile128, 1)

#define GEMM_F32(stored, format)                                  \
    GEMM(gemm_##stored##_f32_m16, format, float, Tile16Float, 1)  \
    GEMM(gemm_##stored##_f32_m64, format, float, Tile64, 1)

GEMM_BF16(bf16, Bf16)
GEMM_BF16(fp8, Fp8)
GEMM_BF16(fp4, Fp4)
GEMM_BF16(int4, Int4)
// Integer activations, quantised by `quantize_rows`: twice the rate of bf16, and half its traffic.
GEMM(gemm_int8_s8_m16, Int8, int8_t, Tile16, 2)
GEMM(gemm_int8_s8_m64, Int8, int8_t, Tile64, 2)
GEMM(gemm_int8_s8_m128, Int8, int8_t, Tile128, 1)
GEMM_F32(f32, F32)
GEMM_F32(f16, F16)
GEMM_F32(bf16, Bf16)
GEMM_F32(fp8, Fp8)
GEMM_F32(fp4, Fp4)
GEMM_F32(int8, Int8)
GEMM_F32(int4, Int4)

namespace gemm {

/// The parts of one sum, in their order. `parts` is [splits, rows, width].
__device__ __forceinline__ float sum_splits(const float* parts, uint32_t splits, size_t stride, size_t at) {
    float sum = 0.0f;
    for (uint32_t s = 0; s < splits; s++) sum += simt::load(parts + s * stride + at);
    return sum;
}

/// out[row, n] of `rows` rows: blockIdx.x is a row, and columns follow the threads of blockIdx.y.
template <class Out>
__device__ __forceinline__ void finish_gated(const float* parts, Out* out, uint32_t splits, uint32_t rows, uint32_t n,
                                             float limit) {
    const uint32_t row = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= n) return;
    const size_t stride = size_t(rows) * n * 2, at = size_t(row) * n * 2 + column;
    const float gate = sum_splits(parts, splits, stride, at), up = sum_splits(parts, splits, stride, at + n);
    simt::store(out + size_t(row) * n + column, Out(silu_times(gate, up, limit)));
}

}  // namespace gemm

// out[rows, n] f32 = the parts [splits, rows, n] summed, plus bias[n] if there is one.
extern "C" __global__ void __launch_bounds__(128)
    gemm_finish(const float* parts, const float* bias, float* out, uint32_t splits, uint32_t rows, uint32_t n) {
    const uint32_t row = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= n) return;
    const size_t at = size_t(row) * n + column;
    const float sum = gemm::sum_splits(parts, splits, size_t(rows) * n, at);
    simt::store(out + at, bias ? sum + simt::load(bias + column) : sum);
}
SIMT_EXPORT(gemm_finish)

// out[rows, n] = silu(gate) * up, both clamped to the limit, of the parts [splits, rows, 2n] summed, gate's columns first.
extern "C" __global__ void __launch_bounds__(128)
    gemm_finish_gated_f32(const float* parts, float* out, uint32_t splits, uint32_t rows, uint32_t n, float limit) {
    gemm::finish_gated(parts, out, splits, rows, n, limit);
}
SIMT_EXPORT(gemm_finish_gated_f32)

extern "C" __global__ void __launch_bounds__(128)
    gemm_finish_gated_bf16(const float* parts, __nv_bfloat16* out, uint32_t splits, uint32_t rows, uint32_t n, float limit) {
    gemm::finish_gated(parts, out, splits, rows, n, limit);
}
SIMT_EXPORT(gemm_finish_gated_bf16)
