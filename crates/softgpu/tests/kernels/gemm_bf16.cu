// C[M,N] f32 = A[M,K] bf16 * B[N,K]^T bf16: tensor cores fed by ldmatrix from a three-stage cp.async pipeline with
// swizzled shared memory. K is a multiple of 32; M and N are any. Test kernel: the PLANT_* macros are its known bugs.
#include "simt/device.h"

namespace gemm_bf16_detail {

constexpr int kTileM = 64, kTileN = 64, kTileK = 32, kThreads = 128, kStages = 3;
constexpr int kChunks = kTileK / 8;  // 16-byte chunks of a row
constexpr int kStageBytes = (kTileM + kTileN) * kTileK * 2;

/// Two 64-byte rows share the 128 bytes of all banks; their chunks are exchanged so that eight rows read at the same
/// column meet no bank twice.
__device__ __forceinline__ int chunk_offset(int row, int chunk) { return (row * kChunks + (chunk ^ (row / 2 % 4))) * 8; }

#ifdef PLANT_WRONG_SWIZZLE
__device__ __forceinline__ int read_offset(int row, int chunk) { return (row * kChunks + (chunk ^ (row % 4))) * 8; }
#else
__device__ __forceinline__ int read_offset(int row, int chunk) { return chunk_offset(row, chunk); }
#endif

/// Starts the copy of one tile's slice of K; rows past the matrix become zeros.
__device__ __forceinline__ void load_tile(__nv_bfloat16* tile, const __nv_bfloat16* matrix, int first_row, int rows, int k, int k_size) {
    for (int c = threadIdx.x; c < kTileM * kChunks; c += kThreads) {
        int row = c / kChunks, chunk = c % kChunks, source_row = first_row + row;
#ifdef PLANT_TAIL_OUT_OF_BOUNDS
        int bytes = rows > 0 ? 16 : 0;
#else
        int bytes = source_row < rows ? 16 : 0;
        if (bytes == 0) source_row = rows - 1;
#endif
        const __nv_bfloat16* source = matrix + size_t(source_row) * k_size + k + chunk * 8;
#ifdef PLANT_MISALIGNED_COPY
        source += k_size > 32 && row == 7;
#endif
        simt::cp_async_zfill<16>(tile + chunk_offset(row, chunk), source, bytes);
    }
}

/// One 32x32 quarter of the tile: two 16-row fragments of A times four 8-column fragments of B, for two steps of k.
__device__ __forceinline__ void multiply(float (&acc)[2][4][4], const __nv_bfloat16* a, const __nv_bfloat16* b, int warp_m, int warp_n) {
    int lane = simt::lane_id();
#pragma unroll
    for (int k = 0; k < 2; k++) {
        uint32_t fa[2][4], fb[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) simt::ldmatrix_x4(fa[i], a + read_offset(warp_m + i * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
        for (int j = 0; j < 2; j++)
            simt::ldmatrix_x4(fb[j], b + read_offset(warp_n + j * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) simt::mma_m16n8k16_bf16(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
    }
}

}  // namespace gemm_bf16_detail

extern "C" __global__ void __launch_bounds__(128)
    gemm_bf16(const __nv_bfloat16* __restrict__ a, const __nv_bfloat16* __restrict__ b, float* __restrict__ c, int m, int n, int k) {
    using namespace gemm_bf16_detail;
    SIMT_DYNAMIC_SHARED(__nv_bfloat16, tiles);
    const int warp = threadIdx.x / 32, lane = simt::lane_id();
    const int warp_m = warp % 2 * 32, warp_n = warp / 2 * 32;
    const int m0 = blockIdx.y * kTileM, n0 = blockIdx.x * kTileN, steps = k / kTileK;
    float acc[2][4][4] = {};

    auto stage_a = [&](int step) { return tiles + step % kStages * (kStageBytes / 2); };
    auto stage_b = [&](int step) { return stage_a(step) + kTileM * kTileK; };
    auto load = [&](int step) {
        if (step < steps) {
            load_tile(stage_a(step), a, m0, m, step * kTileK, k);
            load_tile(stage_b(step), b, n0, n, step * kTileK, k);
        }
        simt::cp_async_commit();  // empty groups keep the count of the wait right at the end
    };

    for (int step = 0; step < kStages - 1; step++) load(step);
    for (int step = 0; step < steps; step++) {
#ifdef PLANT_WEAK_WAIT
        simt::cp_async_wait<kStages - 1>();
#else
        simt::cp_async_wait<kStages - 2>();
#endif
#ifdef PLANT_EARLY_REFILL
        load(step + kStages - 1);  // slower warps still read this stage
#endif
#ifndef PLANT_NO_BARRIER_AFTER_WAIT
        __syncthreads();
#endif
#ifndef PLANT_EARLY_REFILL
        load(step + kStages - 1);
#endif
        multiply(acc, stage_a(step), stage_b(step), warp_m, warp_n);
    }

    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int row = m0 + warp_m + i * 16 + lane / 4 + e / 2 * 8, column = n0 + warp_n + j * 8 + lane % 4 * 2 + e % 2;
#ifdef PLANT_STORE_PAST_END
                if (row < m && column <= n) c[size_t(row) * n + column] = acc[i][j][e];
#else
                if (row < m && column < n) c[size_t(row) * n + column] = acc[i][j][e];
#endif
            }
}
SIMT_EXPORT(gemm_bf16)
