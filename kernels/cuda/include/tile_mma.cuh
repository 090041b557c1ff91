// One warp's part of a tile: its 16 x 8 accumulators over 32 columns of k, on tensor cores for bf16 and int8 operands and
// with plain multiply-adds, in the same accumulators, for float.
//
// Element e of accumulator (i, j) is row 16i + lane/4 + (e/2)*8 and column 8j + lane%4*2 + e%2, as mma.m16n8k16 has it.
#pragma once
#include "shared_tile.cuh"

namespace gemm {

template <class Operand>
struct Multiply;

template <>
struct Multiply<__nv_bfloat16> {
    using Sum = float;            // accumulators
    using Out = __nv_bfloat16;    // activations
    /// acc += x[row0 ..] * w[column0 ..]^T over k group `group`. `word_of(column)` is the form's word of that row of w.
    template <class Format, class TileX, class TileW, int I, int J, class WordOf, class ScaleOf>
    __device__ static void group(float (&acc)[I][J][4], const unsigned char* x, const unsigned char* w, int row0, int column0, int group,
                                 WordOf word_of, ScaleOf) {
        const int lane = simt::lane_id(), owner = lane / 4, run = group * 4 + lane % 4;
        Raw<16> low[I], high[I];
#pragma unroll
        for (int i = 0; i < I; i++) {
            low[i] = TileX::load(x, row0 + i * 16 + owner, run);
            high[i] = TileX::load(x, row0 + i * 16 + owner + 8, run);
        }
#pragma unroll
        for (int j = 0; j < J; j++) {
            const int column = column0 + j * 8 + owner;
            uint32_t b[4];
            Format::decode(TileW::load(w, column, run), word_of(column), b);
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int i = 0; i < I; i++) {
                    const uint32_t a[4] = {low[i].word[half * 2], high[i].word[half * 2], low[i].word[half * 2 + 1], high[i].word[half * 2 + 1]};
                    simt::mma_m16n8k16_bf16(acc[i][j], a, b[half * 2], b[half * 2 + 1]);
                }
        }
    }
};

template <>
struct Multiply<int8_t> {
    using Sum = int32_t;
    using Out = __nv_bfloat16;
    /// The same, exact as long as fewer than 2^17 products share a scale. Neither operand is decoded: the eight elements of
    /// a lane are its part of both halves of one mma.
    template <class Format, class TileX, class TileW, int I, int J, class WordOf, class ScaleOf>
    __device__ static void group(int32_t (&acc)[I][J][4], const unsigned char* x, const unsigned char* w, int row0, int column0, int group,
                                 WordOf, ScaleOf) {
        const int lane = simt::lane_id(), owner = lane / 4, run = group * 4 + lane % 4;
        uint32_t a[I][4];
#pragma unroll
        for (int i = 0; i < I; i++) {
            const Raw<8> low = TileX::load(x, row0 + i * 16 + owner, run), high = TileX::load(x, row0 + i * 16 + owner + 8, run);
            a[i][0] = low.word[0], a[i][1] = high.word[0], a[i][2] = low.word[1], a[i][3] = high.word[1];
        }
#pragma unroll
        for (int j = 0; j < J; j++) {
            const Raw<8> b = TileW::load(w, column0 + j * 8 + owner, run);
#pragma unroll
            for (int i = 0; i < I; i++) simt::mma_m16n8k32_s8(acc[i][j], a[i], b.word[0], b.word[1]);
        }
    }
};

template <>
struct Multiply<float> {
    using Sum = float;
    using Out = float;
    /// The same. `scale_of(column, k)` is a factor for each element: 1 but for blocks that 32 columns do not divide into.
    template <class Format, class TileX, class TileW, int I, int J, class WordOf, class ScaleOf>
    __device__ static void group(float (&acc)[I][J][4], const unsigned char* x, const unsigned char* w, int row0, int column0, int group,
                                 WordOf word_of, ScaleOf scale_of) {
        const int lane = simt::lane_id();
#pragma unroll 1
        for (int run = group * 4; run < group * 4 + 4; run++) {
            float b[J][2][8];
#pragma unroll
            for (int j = 0; j < J; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int column = column0 + j * 8 + lane % 4 * 2 + e;
                    Format::decode(TileW::load(w, column, run), word_of(column), b[j][e]);
                    scale_of(column, run * 8, b[j][e]);
                }
#pragma unroll
            for (int h = 0; h < I * 2; h++) {
                const Raw<32> a = TileX::load(x, row0 + h / 2 * 16 + lane / 4 + h % 2 * 8, run);
#pragma unroll
                for (int j = 0; j < J; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++)
#pragma unroll
                        for (int k = 0; k < 8; k++) acc[h / 2][j][h % 2 * 2 + e] += __uint_as_float(a.word[k]) * b[j][e][k];
            }
        }
    }
};

/// total += acc * the scale of each column, and acc starts anew: the sum of one block of columns is complete.
template <class Sum, int I, int J, class ScaleOf>
__device__ __forceinline__ void promote(float (&total)[I][J][4], Sum (&acc)[I][J][4], int column0, ScaleOf scale_of) {
    const int pair = simt::lane_id() % 4 * 2;
#pragma unroll
    for (int j = 0; j < J; j++) {
        const float scale[2] = {scale_of(column0 + j * 8 + pair), scale_of(column0 + j * 8 + pair + 1)};
#pragma unroll
        for (int i = 0; i < I; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                total[i][j][e] += float(acc[i][j][e]) * scale[e % 2];
                acc[i][j][e] = Sum(0);
            }
    }
}

}  // namespace gemm
