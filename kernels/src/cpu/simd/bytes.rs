//! Sixteen bytes as one value: what codes of fewer than eight bits are taken apart with. A value is made by a [`super::Simd`],
//! so it is a proof that its instructions exist.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::LANES;

/// Operations on each of sixteen bytes.
pub(in crate::cpu) trait Bytes: Copy {
    /// The bits of `mask`, counted from bit `shift`; none of them beyond the byte.
    fn bits(self, shift: u32, mask: u8) -> Self;
    /// These bits and those of `high` from bit `shift`; none of them beyond the byte.
    fn with_high(self, high: Self, shift: u32) -> Self;
    /// Less `value`, wrapping.
    fn less(self, value: u8) -> Self;
}

impl Bytes for [u8; LANES] {
    #[inline(always)]
    fn bits(self, shift: u32, mask: u8) -> Self {
        let mut out = self;
        for byte in &mut out {
            *byte = *byte >> shift & mask;
        }
        out
    }

    #[inline(always)]
    fn with_high(self, high: Self, shift: u32) -> Self {
        let mut out = self;
        for i in 0..LANES {
            out[i] |= high[i] << shift;
        }
        out
    }

    #[inline(always)]
    fn less(self, value: u8) -> Self {
        let mut out = self;
        for byte in &mut out {
            *byte = byte.wrapping_sub(value);
        }
        out
    }
}

/// The bytes of a level that has SSSE3.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Sse(pub(super) __m128i);

#[cfg(target_arch = "x86_64")]
impl Sse {
    /// # Safety
    /// The processor has SSSE3.
    #[inline(always)]
    pub(super) unsafe fn load(from: &[u8; LANES]) -> Self {
        // SAFETY: the array is 16 readable bytes.
        Self(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
    }

    /// See [`super::Simd::spread_bits`].
    ///
    /// # Safety
    /// The processor has SSSE3.
    #[inline(always)]
    pub(super) unsafe fn spread_bits(bits: [u8; 2]) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let both = _mm_set1_epi16(i16::from_le_bytes(bits));
            let each = _mm_shuffle_epi8(both, _mm_set_epi64x(0x0101_0101_0101_0101, 0));
            let place = _mm_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let set = _mm_cmpeq_epi8(_mm_and_si128(each, place), place);
            Self(_mm_and_si128(set, _mm_set1_epi8(1)))
        }
    }

    /// See [`super::Simd::look_up`].
    #[inline(always)]
    pub(super) fn look_up(self, table: &[i8; 16]) -> Self {
        // SAFETY: the value proves SSSE3; the table is 16 readable bytes.
        Self(unsafe { _mm_shuffle_epi8(_mm_loadu_si128(table.as_ptr().cast()), self.0) })
    }
}

#[cfg(target_arch = "x86_64")]
impl Bytes for Sse {
    #[inline(always)]
    fn bits(self, shift: u32, mask: u8) -> Self {
        // SAFETY: the value proves SSSE3. There is no shift of bytes: what comes over from the neighbour is masked out.
        Self(unsafe {
            let shifted = _mm_srl_epi16(self.0, _mm_cvtsi32_si128(shift as i32));
            _mm_and_si128(shifted, _mm_set1_epi8(mask as i8))
        })
    }

    #[inline(always)]
    fn with_high(self, high: Self, shift: u32) -> Self {
        // SAFETY: the value proves SSSE3; by the contract nothing goes over to the neighbour.
        Self(unsafe { _mm_or_si128(self.0, _mm_sll_epi16(high.0, _mm_cvtsi32_si128(shift as i32))) })
    }

    #[inline(always)]
    fn less(self, value: u8) -> Self {
        // SAFETY: the value proves SSSE3.
        Self(unsafe { _mm_sub_epi8(self.0, _mm_set1_epi8(value as i8)) })
    }
}
