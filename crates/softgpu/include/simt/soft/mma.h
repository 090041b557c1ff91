// mma.sync: one warp multiplies a 16 x K tile by a K x 8 tile. Products are summed in order of k in f32 (int32), which
// is not how tensor cores round: compare with a tolerance.
#pragma once
#include "simt/soft/bfloat16.h"
#include "simt/soft/half.h"
#include "simt/soft/warp.h"

namespace simt {

template <class Acc>
struct MmaArgs {
    Acc* d;
    const uint32_t* a;
    uint32_t b[2];
};

// Element types: how many share a register, and their value as the accumulator's type.
struct Bf16Element {
    using Acc = float;
    static constexpr const char* name = "mma.m16n8k16.bf16";
    static constexpr int per_register = 2;
    static Acc value(uint32_t bits, int i) { return bf16_bits_to_float(uint16_t(bits >> 16 * i)); }
};
struct F16Element {
    using Acc = float;
    static constexpr const char* name = "mma.m16n8k16.f16";
    static constexpr int per_register = 2;
    static Acc value(uint32_t bits, int i) { return half_bits_to_float(uint16_t(bits >> 16 * i)); }
};
struct S8Element {
    using Acc = int32_t;
    static constexpr const char* name = "mma.m16n8k32.s8";
    static constexpr int per_register = 4;
    static Acc value(uint32_t bits, int i) { return int8_t(bits >> 8 * i); }
};
struct Tf32Element {
    using Acc = float;
    static constexpr const char* name = "mma.m16n8k8.tf32";
    static constexpr int per_register = 1;
    // The tensor core reads the upper 19 bits of an f32.
    static Acc value(uint32_t bits, int) {
        bits &= 0xffffe000u;
        Acc value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
};

/// Register r of a lane holds row lane/4 (+8 for odd r) and columns from (lane%4) * per_register (+ half of K for r >= 2).
template <class Element>
SIMT_RUNTIME void run_mma(MmaArgs<typename Element::Acc>* const* lanes, uint32_t) {
    using Acc = typename Element::Acc;
    constexpr int width = Element::per_register, half_k = 4 * width, k_size = 2 * half_k;
    Acc a[16][k_size], b[k_size][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const MmaArgs<Acc>& args = *lanes[lane];
        int group = lane / 4, column = lane % 4 * width;
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < width; i++) a[group + r % 2 * 8][column + r / 2 * half_k + i] = Element::value(args.a[r], i);
        for (int r = 0; r < 2; r++)
            for (int i = 0; i < width; i++) b[column + r * half_k + i][group] = Element::value(args.b[r], i);
        for (int r = 0; r < 4; r++) c[group + r / 2 * 8][lane % 4 * 2 + r % 2] = args.d[r];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < k_size; k++)
            for (int n = 0; n < 8; n++) c[row][n] += a[row][k] * b[k][n];
    for (int lane = 0; lane < 32; lane++)
        for (int r = 0; r < 4; r++) lanes[lane]->d[r] = c[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
}

template <class Element>
inline void mma(typename Element::Acc (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Place place) {
    static const Op op{Element::name, false};
    MmaArgs<typename Element::Acc> args{d, a, {b0, b1}};
    collective(op, 0xffffffffu, args, run_mma<Element>, place);
}

/// d += a * b: a is 16x16 row-major bf16, b is 16x8 column-major bf16, d is 16x8 f32.
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_HERE) {
    mma<Bf16Element>(d, a, b0, b1, place);
}

/// The same with f16 operands.
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_HERE) {
    mma<F16Element>(d, a, b0, b1, place);
}

/// d += a * b: a is 16x32 row-major int8, b is 32x8 column-major int8, d is 16x8 int32.
inline void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_HERE) {
    mma<S8Element>(d, a, b0, b1, place);
}

/// d += a * b: a is 16x8 row-major, b is 8x8 column-major, both f32 bits of which tf32's 19 are used.
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_HERE) {
    mma<Tf32Element>(d, a, b0, b1, place);
}

}  // namespace simt
