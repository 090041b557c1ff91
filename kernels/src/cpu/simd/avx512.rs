//! The lanes as one 512-bit register.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::avx2::look_up_nibbles;
use super::bytes::Sse;
use super::{LANES, Simd};
use crate::cpu::level::Level;

/// Proof that AVX-512 F, BW, DQ and VL are there.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Avx512(());

impl Avx512 {
    /// The token, if this processor has the instructions.
    pub(in crate::cpu) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        found.then_some(Self(()))
    }

    #[inline(always)]
    fn bits(self, value: u32) -> __m512i {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_set1_epi32(value as i32) }
    }
}

impl Simd for Avx512 {
    type V = __m512;
    type B = Sse;
    const LEVEL: Level = Level::Avx512;
    const WIDE: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        // SAFETY: the token proves AVX-512F; the array is 64 readable bytes.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32; LANES]) {
        // SAFETY: the token proves AVX-512F; the array is 64 writable bytes.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn keep_ge(self, a: __m512, b: __m512, value: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b), value) }
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), self.bits(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn splat_f16(self, bytes: [u8; 2]) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(bytes))) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> __m512 {
        // SAFETY: the token proves AVX-512F; the array is 32 readable bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> __m512 {
        // SAFETY: the token proves AVX-512F; the array is 32 readable bytes.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    fn store_bf16(self, value: __m512, to: &mut [bf16; LANES]) {
        // SAFETY: the token proves AVX-512F; the array is 32 writable bytes.
        unsafe {
            let bits = _mm512_castps_si512(value);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), self.bits(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, self.bits(0x7FFF)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            let quiet = _mm512_or_si512(bits, self.bits(0x0040_0000));
            let chosen = _mm512_mask_mov_epi32(rounded, nan, quiet);
            let words = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), words);
        }
    }

    #[inline(always)]
    fn load_e4m3_finite(self, from: &[u8; LANES]) -> __m512 {
        // SAFETY: the token proves AVX-512F, BW and VL; the array is 16 readable bytes.
        unsafe {
            // Sign extension keeps the sign on top while the shift brings exponent and mantissa under f16's.
            let words = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.as_ptr().cast()));
            let placed = _mm256_slli_epi16::<7>(words);
            _mm512_cvtph_ps(_mm256_and_si256(placed, _mm256_set1_epi16(0xBF80_u16 as i16)))
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> __m512 {
        // SAFETY: the token proves AVX-512F; the array is 16 readable bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_nibbles(self, from: &[u8; LANES / 2], table: &[i8; 16]) -> __m512 {
        // SAFETY: the token proves AVX-512F, which includes SSSE3.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(look_up_nibbles(from, table))) }
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; LANES]) -> Sse {
        // SAFETY: the token proves AVX-512F, which includes SSSE3.
        unsafe { Sse::load(from) }
    }

    #[inline(always)]
    fn spread_bits(self, bits: [u8; 2]) -> Sse {
        // SAFETY: the token proves AVX-512F, which includes SSSE3.
        unsafe { Sse::spread_bits(bits) }
    }

    #[inline(always)]
    fn widen(self, bytes: Sse) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes.0)) }
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
        let (chunks, tail) = bytes.as_chunks::<64>();
        let mut largest = self.bits(0);
        for chunk in chunks {
            // SAFETY: the token proves AVX-512F and BW; the chunk is 64 readable bytes.
            largest = unsafe {
                let magnitudes =
                    _mm512_and_si512(_mm512_loadu_si512(chunk.as_ptr().cast()), self.bits(0x7F7F_7F7F));
                _mm512_max_epu8(largest, magnitudes)
            };
        }
        // SAFETY: as above.
        let found = unsafe { _mm512_cmpeq_epi8_mask(largest, self.bits(0x7F7F_7F7F)) };
        found != 0 || tail.iter().any(|byte| byte & 0x7F == 0x7F)
    }

    #[inline(always)]
    fn sum(self, value: __m512) -> f32 {
        // SAFETY: the token proves AVX-512F and DQ.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(value), _mm512_extractf32x8_ps::<1>(value));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        // SAFETY: the token proves AVX-512F; the last store fills the array's 16 bytes.
        unsafe {
            // [a | b] and [c | d], each folded from 16 lanes to 8, then to 4 lanes each of a, b, c, d.
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
            );
            let abcd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            let two = _mm512_add_ps(abcd, _mm512_permute_ps::<0b01_00_11_10>(abcd));
            let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
            // The first lane of each quarter.
            let first = _mm512_permutexvar_ps(
                _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                one,
            );
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(first));
            sums
        }
    }
}
