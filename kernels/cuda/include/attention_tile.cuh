// Swizzled tiles in shared memory and the two products of attention on them, Q K^T and P V, for bf16 on tensor cores and
// for f32 with plain multiply-adds. Both own the accumulator in the layout of mma.m16n8: a lane has rows lane/4 and
// lane/4 + 8, columns lane%4 * 2 and the next.
#pragma once
#include "simt/device.h"

namespace cachalot::attention {

/// Rows of whole 128-byte groups. The 16-byte chunks of a group are exchanged by the row's last three bits, so that
/// eight rows read at one column (ldmatrix) meet every bank once.
template <class T>
struct Tile {
    static constexpr int kChunk = 16 / int(sizeof(T));  // elements of a chunk
    T* data;
    int stride;  // elements of a row, a multiple of 8 chunks

    __device__ __forceinline__ T* chunk(int row, int c) const { return data + row * stride + (c ^ (row & 7)) * kChunk; }
};

/// Elements of a tile row that holds `columns`.
template <class T>
__device__ __forceinline__ int tile_stride(int columns) {
    constexpr int group = 128 / int(sizeof(T));
    return (columns + group - 1) / group * group;
}

/// A row-major matrix without swizzle; its stride is an odd number of chunks, which spreads the banks as well.
template <class T>
struct Matrix {
    T* data;
    int stride;
};

/// acc[i][j] += A[row + 16 i.., depth..] B[key + 8 j.., depth..]^T over 16 of depth.
template <int kRows, int kKeys>
__device__ __forceinline__ void multiply_scores(float (&acc)[kRows][kKeys][4], const Tile<__nv_bfloat16>& a, int row,
                                                const Tile<__nv_bfloat16>& b, int key, int depth) {
    const int lane = simt::lane_id(), c = depth / 8;
    uint32_t fa[kRows][4], fb[kKeys][2];
#pragma unroll
    for (int i = 0; i < kRows; i++) simt::ldmatrix_x4(fa[i], a.chunk(row + i * 16 + lane % 16, c + lane / 16));
#pragma unroll
    for (int j = 0; j < kKeys; j++) simt::ldmatrix_x2(fb[j], b.chunk(key + j * 8 + lane % 8, c + lane / 8 % 2));
#pragma unroll
    for (int i = 0; i < kRows; i++)
#pragma unroll
        for (int j = 0; j < kKeys; j++) simt::mma_m16n8k16_bf16(acc[i][j], fa[i], fb[j][0], fb[j][1]);
}

template <int kRows, int kKeys>
__device__ __forceinline__ void multiply_scores(float (&acc)[kRows][kKeys][4], const Tile<float>& a, int row,
                                                const Tile<float>& b, int key, int depth) {
    const int lane = simt::lane_id();
    for (int c = depth / 4; c < depth / 4 + 4; c++)
#pragma unroll
        for (int i = 0; i < kRows; i++)
#pragma unroll
            for (int j = 0; j < kKeys; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float* x = a.chunk(row + i * 16 + lane / 4 + e / 2 * 8, c);
                    const float* y = b.chunk(key + j * 8 + lane % 4 * 2 + e % 2, c);
#pragma unroll
                    for (int k = 0; k < 4; k++) acc[i][j][e] += x[k] * y[k];
                }
}

/// acc[i][j] += P[16 i.., key..] V[key.., column + 8 j..] over 16 keys, for the pairs of fragments before `columns`.
template <int kRows, int kColumns>
__device__ __forceinline__ void multiply_values(float (&acc)[kRows][kColumns][4], const Matrix<__nv_bfloat16>& p,
                                                const Tile<__nv_bfloat16>& v, int key, int column, int columns) {
    const int lane = simt::lane_id();
    uint32_t fp[kRows][4], fv[4];
#pragma unroll
    for (int i = 0; i < kRows; i++) simt::ldmatrix_x4(fp[i], p.data + (i * 16 + lane % 16) * p.stride + key + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < kColumns; j += 2) {
        if (column + j * 8 >= columns) continue;  // the same for the whole warp
        simt::ldmatrix_x4_trans(fv, v.chunk(key + lane % 16, column / 8 + j + lane / 16));
#pragma unroll
        for (int i = 0; i < kRows; i++) {
            simt::mma_m16n8k16_bf16(acc[i][j], fp[i], fv[0], fv[1]);
            simt::mma_m16n8k16_bf16(acc[i][j + 1], fp[i], fv[2], fv[3]);
        }
    }
}

template <int kRows, int kColumns>
__device__ __forceinline__ void multiply_values(float (&acc)[kRows][kColumns][4], const Matrix<float>& p,
                                                const Tile<float>& v, int key, int column, int columns) {
    const int lane = simt::lane_id();
    for (int k = key; k < key + 16; k++)
#pragma unroll
        for (int j = 0; j < kColumns; j++) {
            if (column + j / 2 * 16 >= columns) continue;
            const int at = column + j * 8 + lane % 4 * 2;
            const float* y = v.chunk(k, at / 4) + at % 4;
#pragma unroll
            for (int i = 0; i < kRows; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) acc[i][j][e] += p.data[(i * 16 + lane / 4 + e / 2 * 8) * p.stride + k] * y[e % 2];
        }
}

}  // namespace cachalot::attention
