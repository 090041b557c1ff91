// C[M,N] int32 = A[M,K] int8 * B[N,K]^T int8: int8 tensor cores, double-buffered cp.async, rows padded by 16 bytes.
// M and N are multiples of 32, K of 64. Test kernel: the PLANT_* macros are its known bugs.
#include "simt/device.h"

namespace gemm_s8_detail {

constexpr int kTile = 32, kTileK = 64, kThreads = 64, kRowBytes = kTileK + 16;

__device__ __forceinline__ void load_tile(int8_t* tile, const int8_t* matrix, int first_row, int k, int k_size) {
    for (int c = threadIdx.x; c < kTile * (kTileK / 16); c += kThreads) {
        int row = c / (kTileK / 16), chunk = c % (kTileK / 16);
        simt::cp_async<16>(tile + row * kRowBytes + chunk * 16, matrix + size_t(first_row + row) * k_size + k + chunk * 16);
    }
}

}  // namespace gemm_s8_detail

extern "C" __global__ void __launch_bounds__(64)
    gemm_s8(const int8_t* __restrict__ a, const int8_t* __restrict__ b, int32_t* __restrict__ c, int n, int k) {
    using namespace gemm_s8_detail;
    __shared__ __align__(16) int8_t tile_a[2][kTile * kRowBytes];
    __shared__ __align__(16) int8_t tile_b[2][kTile * kRowBytes];
    const int lane = simt::lane_id(), warp_m = threadIdx.x / 32 * 16;
    const int m0 = blockIdx.y * kTile, n0 = blockIdx.x * kTile, steps = k / kTileK;
    int32_t acc[4][4] = {};

    auto load = [&](int step) {
        load_tile(tile_a[step % 2], a, m0, step * kTileK, k);
        load_tile(tile_b[step % 2], b, n0, step * kTileK, k);
        simt::cp_async_commit();
    };

    load(0);
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            load(step + 1);
            simt::cp_async_wait<1>();
        } else {
#ifndef PLANT_NO_LAST_WAIT
            simt::cp_async_wait<0>();
#endif
        }
        __syncthreads();
        for (int k32 = 0; k32 < kTileK; k32 += 32) {
            uint32_t fa[4], fb[4];
            // To ldmatrix a pair of int8 is one 16-bit element, so its fragments are those of the int8 mma.
            simt::ldmatrix_x4(fa, tile_a[step % 2] + (warp_m + lane % 16) * kRowBytes + k32 + lane / 16 * 16);
            for (int j = 0; j < 2; j++) {
                simt::ldmatrix_x4(fb, tile_b[step % 2] + (j * 16 + lane % 8 + lane / 16 * 8) * kRowBytes + k32 + lane / 8 % 2 * 16);
                simt::mma_m16n8k32_s8(acc[j * 2], fa, fb[0], fb[1]);
                simt::mma_m16n8k32_s8(acc[j * 2 + 1], fa, fb[2], fb[3]);
            }
        }
#ifndef PLANT_NO_BARRIER_BEFORE_REFILL
        __syncthreads();
#endif
    }

    for (int j = 0; j < 4; j++)
        for (int e = 0; e < 4; e++) {
            int row = m0 + warp_m + lane / 4 + e / 2 * 8, column = n0 + j * 8 + lane % 4 * 2 + e % 2;
            c[size_t(row) * n + column] = acc[j][e];
        }
}
SIMT_EXPORT(gemm_s8)
