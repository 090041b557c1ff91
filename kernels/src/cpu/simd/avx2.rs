//! The lanes as two 256-bit registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::bytes::Sse;
use super::{LANES, Simd};
use crate::cpu::level::Level;

/// Proof that AVX2, FMA and F16C are there.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Avx2(());

/// Lanes 0 to 7 and 8 to 15.
type Pair = [__m256; 2];

impl Avx2 {
    /// The token, if this processor has the instructions.
    pub(in crate::cpu) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// One lane-wise instruction on both halves.
macro_rules! lanewise {
    ($name:ident, $instruction:ident) => {
        #[inline(always)]
        fn $name(self, a: Pair, b: Pair) -> Pair {
            // SAFETY: the token proves AVX2.
            unsafe { [$instruction(a[0], b[0]), $instruction(a[1], b[1])] }
        }
    };
}

/// Sixteen bytes as `f32`.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn widen_i8(bytes: __m128i) -> Pair {
    // SAFETY: the caller's promise.
    unsafe {
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
        ]
    }
}

/// `table` at sixteen 4-bit codes, low halves first.
///
/// # Safety
/// The processor has SSSE3.
#[inline(always)]
pub(super) unsafe fn look_up_nibbles(from: &[u8; LANES / 2], table: &[i8; 16]) -> __m128i {
    // SAFETY: the caller's promise; the arrays are 8 and 16 readable bytes.
    unsafe {
        let bytes = _mm_loadl_epi64(from.as_ptr().cast());
        let mask = _mm_set1_epi8(15);
        let (low, high) = (_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask));
        let codes = _mm_unpacklo_epi8(low, high);
        _mm_shuffle_epi8(_mm_loadu_si128(table.as_ptr().cast()), codes)
    }
}

impl Simd for Avx2 {
    type V = Pair;
    type B = Sse;
    const LEVEL: Level = Level::Avx2;
    const WIDE: bool = false;

    lanewise!(add, _mm256_add_ps);
    lanewise!(sub, _mm256_sub_ps);
    lanewise!(mul, _mm256_mul_ps);
    lanewise!(div, _mm256_div_ps);
    lanewise!(max, _mm256_max_ps);
    lanewise!(min, _mm256_min_ps);

    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        // SAFETY: the token proves AVX2.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Pair {
        // SAFETY: the token proves AVX2; the array is 64 readable bytes.
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())] }
    }

    #[inline(always)]
    fn store(self, value: Pair, to: &mut [f32; LANES]) {
        // SAFETY: the token proves AVX2; the array is 64 writable bytes.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), value[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), value[1]);
        }
    }

    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: the token proves FMA.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn keep_ge(self, a: Pair, b: Pair, value: Pair) -> Pair {
        // SAFETY: the token proves AVX2.
        unsafe {
            [
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[0], b[0]), value[0]),
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[1], b[1]), value[1]),
            ]
        }
    }

    #[inline(always)]
    fn pow2(self, n: Pair) -> Pair {
        let mut out = n;
        for half in &mut out {
            // SAFETY: the token proves AVX2.
            *half = unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(*half), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            };
        }
        out
    }

    #[inline(always)]
    fn splat_f16(self, bytes: [u8; 2]) -> Pair {
        // SAFETY: the token proves AVX2 and F16C.
        unsafe { [_mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(bytes))); 2] }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Pair {
        // SAFETY: the token proves F16C; the array is 32 readable bytes.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from[8..].as_ptr().cast())),
            ]
        }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> Pair {
        let mut out = self.splat(0.0);
        for (half, from) in out.iter_mut().zip(from.as_chunks::<8>().0) {
            // SAFETY: the token proves AVX2; the half array is 16 readable bytes.
            *half = unsafe {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
            };
        }
        out
    }

    #[inline(always)]
    fn store_bf16(self, value: Pair, to: &mut [bf16; LANES]) {
        let mut lanes = [0.0; LANES];
        self.store(value, &mut lanes);
        for (to, lane) in to.iter_mut().zip(lanes) {
            *to = bf16::from_f32(lane);
        }
    }

    #[inline(always)]
    fn load_e4m3_finite(self, from: &[u8; LANES]) -> Pair {
        // SAFETY: the token proves AVX2 and F16C; the array is 16 readable bytes.
        unsafe {
            // Sign extension keeps the sign on top while the shift brings exponent and mantissa under f16's.
            let words = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.as_ptr().cast()));
            let placed = _mm256_slli_epi16::<7>(words);
            let halves = _mm256_and_si256(placed, _mm256_set1_epi16(0xBF80_u16 as i16));
            [
                _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)),
            ]
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> Pair {
        // SAFETY: the array is 16 readable bytes; the token proves AVX2.
        unsafe { widen_i8(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_nibbles(self, from: &[u8; LANES / 2], table: &[i8; 16]) -> Pair {
        // SAFETY: the token proves AVX2 and what it includes; the arrays are 8 and 16 readable bytes.
        unsafe { widen_i8(look_up_nibbles(from, table)) }
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; LANES]) -> Sse {
        // SAFETY: the token proves AVX2, which includes SSSE3.
        unsafe { Sse::load(from) }
    }

    #[inline(always)]
    fn spread_bits(self, bits: [u8; 2]) -> Sse {
        // SAFETY: the token proves AVX2, which includes SSSE3.
        unsafe { Sse::spread_bits(bits) }
    }

    #[inline(always)]
    fn widen(self, bytes: Sse) -> Pair {
        // SAFETY: the token proves AVX2.
        unsafe { widen_i8(bytes.0) }
    }

    #[inline(always)]
    fn look_up(self, codes: Sse, table: &[i8; 16]) -> Sse {
        codes.look_up(table)
    }

    #[inline(always)]
    fn prefetch_line(self, address: *const u8) {
        // SAFETY: SSE is part of x86-64, and a prefetch of any address neither faults nor changes anything.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn has_e4m3_nan(self, bytes: &[u8]) -> bool {
        // Without an early exit the loop is vectorised.
        let mut found = false;
        for byte in bytes {
            found |= byte & 0x7F == 0x7F;
        }
        found
    }

    #[inline(always)]
    fn sum(self, value: Pair) -> f32 {
        // SAFETY: the token proves AVX2.
        unsafe {
            let eight = _mm256_add_ps(value[0], value[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [Pair; 4]) -> [f32; 4] {
        [self.sum(a), self.sum(b), self.sum(c), self.sum(d)]
    }
}
