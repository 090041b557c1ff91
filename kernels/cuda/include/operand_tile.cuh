// Tiles of matmul operands in shared memory, and one warp's product of two of them: tensor cores for bf16, plain
// multiply-adds into the same accumulators for float.
#pragma once
#include "simt/device.h"

namespace cachalot {

/// Rows of `Columns` elements in runs of eight, which are exchanged so that eight rows read at the same column (by
/// ldmatrix, 16 bytes each) meet no bank twice.
template <int Columns>
struct OperandTile {
    static constexpr int kRuns = Columns / 8, kTurns = kRuns < 8 ? kRuns : 8, kLineRows = 8 / kTurns;
    static_assert(Columns % 8 == 0 && (kRuns & (kRuns - 1)) == 0, "the exchange is an exclusive or");

    /// Where run `run` of a row starts.
    __device__ static __forceinline__ int offset(int row, int run) {
        return row * Columns + (run ^ (row / kLineRows % kTurns)) * 8;
    }
    __device__ static __forceinline__ int element(int row, int column) { return offset(row, column / 8) + column % 8; }
};

/// acc += x * w for 16 I rows of x [rows, K] and 16 columns, from `column` on, of w: [N, K], or [K, N] with `KRows`.
///
/// Element e of acc[i][j] is row 16i + lane/4 + (e/2)*8 and column 8j + lane%4*2 + e%2, as mma.m16n8k16 has it. k is
/// summed in its order whatever the number of rows, so that a row's result does not depend on the others.
template <int K, int N, bool KRows, int I>
__device__ __forceinline__ void multiply(float (&acc)[I][2][4], const __nv_bfloat16* x, const __nv_bfloat16* w, int column) {
    using X = OperandTile<K>;
    using W = OperandTile<KRows ? N : K>;
    const int lane = simt::lane_id();
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        uint32_t a[I][4], b[4];
#pragma unroll
        for (int i = 0; i < I; i++) simt::ldmatrix_x4(a[i], x + X::offset(i * 16 + lane % 16, k / 8 + lane / 16));
        if constexpr (KRows)
            simt::ldmatrix_x4_trans(b, w + W::offset(k + lane % 16, column / 8 + lane / 16));
        else
            simt::ldmatrix_x4(b, w + W::offset(column + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < I; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) simt::mma_m16n8k16_bf16(acc[i][j], a[i], b[j * 2], b[j * 2 + 1]);
    }
}

template <int K, int N, bool KRows, int I>
__device__ __forceinline__ void multiply(float (&acc)[I][2][4], const float* x, const float* w, int column) {
    using X = OperandTile<K>;
    using W = OperandTile<KRows ? N : K>;
    const int lane = simt::lane_id(), row = lane / 4;
    column += lane % 4 * 2;
#pragma unroll 4
    for (int k = 0; k < K; k++) {
        float b[2][2];
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int n = column + j * 8 + e;
                b[j][e] = w[KRows ? W::element(k, n) : W::element(n, k)];
            }
#pragma unroll
        for (int i = 0; i < I; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float a = x[X::element(row + i * 16 + h * 8, k)];
#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) acc[i][j][h * 2 + e] += a * b[j][e];
            }
    }
}

}  // namespace cachalot
