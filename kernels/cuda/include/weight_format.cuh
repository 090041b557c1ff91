// The stored forms of a weight: how eight consecutive elements of a row become operands of a matrix multiplication.
//
// `decode` gives eight bf16 in four registers (for tensor cores) or eight floats. A form is one of
//   plain     the element is the value;
//   promoted  `kPromote`: products are summed unscaled, exactly as stored, and a scale of its own multiplies the sum of
//             every block of columns, in f32;
// and `kWord` says that decoding needs a word per 32 columns: the zero point of INT4, the exponent of FP4, each as two
// equal bf16. A power of two multiplies a bf16 exactly, so FP4 needs no second set of sums.
#pragma once
#include "simt/device.h"

namespace gemm {

/// Eight elements of `Bits` bits.
template <int Bits>
struct Raw {
    uint32_t word[Bits / 4];
};

__device__ __forceinline__ __nv_bfloat162 as_bf162(uint32_t bits) {
    union {
        uint32_t bits;
        __nv_bfloat162 value;
    } u;
    u.bits = bits;
    return u.value;
}

__device__ __forceinline__ uint32_t as_bits(__nv_bfloat162 value) {
    union {
        __nv_bfloat162 value;
        uint32_t bits;
    } u;
    u.value = value;
    return u.bits;
}

__device__ __forceinline__ uint32_t multiply2(uint32_t a, uint32_t b) { return as_bits(__hmul2(as_bf162(a), as_bf162(b))); }
__device__ __forceinline__ uint32_t subtract2(uint32_t a, uint32_t b) { return as_bits(__hsub2(as_bf162(a), as_bf162(b))); }

/// The float in the lower half of a word.
__device__ __forceinline__ float low_float(uint32_t word) { return __uint_as_float(word << 16); }

struct F32 {
    static constexpr int kBits = 32;
    static constexpr bool kPromote = false, kWord = false;
    __device__ static void decode(const Raw<32>& raw, uint32_t, float (&out)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = __uint_as_float(raw.word[i]);
    }
};

struct F16 {
    static constexpr int kBits = 16;
    static constexpr bool kPromote = false, kWord = false;
    __device__ static void decode(const Raw<16>& raw, uint32_t, float (&out)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = __half2float(__ushort_as_half(uint16_t(raw.word[i / 2] >> i % 2 * 16)));
    }
};

struct Bf16 {
    static constexpr int kBits = 16;
    static constexpr bool kPromote = false, kWord = false;
    __device__ static void decode(const Raw<16>& raw, uint32_t, uint32_t (&out)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[i] = raw.word[i];
    }
    __device__ static void decode(const Raw<16>& raw, uint32_t, float (&out)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = __uint_as_float(i % 2 ? raw.word[i / 2] & 0xffff0000u : raw.word[i / 2] << 16);
    }
};

struct Fp8 {
    static constexpr int kBits = 8;
    static constexpr bool kPromote = true, kWord = false;

    /// Adding one carries into the sign bit of exactly those magnitudes that are NaN.
    __device__ static bool has_nan(const Raw<8>& raw) {
        uint32_t carry = ((raw.word[0] & 0x7f7f7f7fu) + 0x01010101u) | ((raw.word[1] & 0x7f7f7f7fu) + 0x01010101u);
        return (carry & 0x80808080u) != 0;
    }

    /// Two bytes, each in the upper half of its 16 bits: exponent and mantissa shift into bf16's places, and one exact
    /// multiplication makes up for the difference of the biases, subnormals included.
    __device__ static uint32_t decode_pair(uint32_t spread) {
        return multiply2((spread & 0x80008000u) | (spread >> 4 & 0x07f007f0u), 0x7b807b80u);  // 2^120
    }

    __device__ static void decode(const Raw<8>& raw, uint32_t, uint32_t (&out)[4]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            out[i * 2] = decode_pair(__byte_perm(raw.word[i], 0, 0x1404));
            out[i * 2 + 1] = decode_pair(__byte_perm(raw.word[i], 0, 0x3424));
        }
        if (has_nan(raw)) {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if ((raw.word[i / 4] >> i % 4 * 8 & 0x7f) == 0x7f) out[i / 2] |= 0x7fc0u << i % 2 * 16;
        }
    }

    __device__ static void decode(const Raw<8>& raw, uint32_t, float (&out)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = simt::fp8_e4m3_to_float(uint8_t(raw.word[i / 4] >> i % 4 * 8));
    }
};

/// As integers they multiply integers and are not decoded (`Multiply<int8_t>`).
struct Int8 {
    static constexpr int kBits = 8;
    static constexpr bool kPromote = true, kWord = false;

    __device__ static void decode(const Raw<8>& raw, uint32_t, float (&out)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = float(int8_t(raw.word[i / 4] >> i % 4 * 8));
    }
};

struct Int4 {
    static constexpr int kBits = 4;
    static constexpr bool kPromote = true, kWord = true;

    /// 128 + q is a bf16 with q as its last bits; both differences are exact, whatever the zero point's byte.
    __device__ static void decode(const Raw<4>& raw, uint32_t zero, uint32_t (&out)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t pair = raw.word[0] >> i * 8;
            out[i] = subtract2(subtract2((pair & 0xfu) | (pair << 12 & 0xf0000u) | 0x43004300u, 0x43004300u), zero);
        }
    }

    __device__ static void decode(const Raw<4>& raw, uint32_t zero, float (&out)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = float(raw.word[0] >> i * 4 & 15) - low_float(zero);
    }
};

struct Fp4 {
    static constexpr int kBits = 4;
    static constexpr bool kPromote = false, kWord = true;

    /// The nibble's magnitude shifted into bf16's exponent is 2^126 too small.
    __device__ static void decode(const Raw<4>& raw, uint32_t scale, uint32_t (&out)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t pair = raw.word[0] >> i * 8;
            uint32_t magnitude = (pair << 6 & 0x1c0u) | (pair << 18 & 0x1c00000u);
            uint32_t sign = (pair << 12 & 0x8000u) | (pair << 24 & 0x80000000u);
            out[i] = multiply2(multiply2(magnitude | sign, 0x7e807e80u), scale);
        }
    }

    __device__ static void decode(const Raw<4>& raw, uint32_t scale, float (&out)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = simt::fp4_e2m1_to_float(raw.word[0] >> i * 4) * low_float(scale);
    }
};

/// An e8m0 byte as bf16 bits: 2^(byte - 127), 0xff is NaN.
__device__ __forceinline__ uint32_t e8m0_to_bf16_bits(uint8_t byte) { return byte == 0 ? 0x40u : byte == 255 ? 0x7fc0u : byte << 7; }

}  // namespace gemm
