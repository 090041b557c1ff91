//! The blocks of ggml, thirty-two columns at a time in registers. Layouts after `ggml-common.h` and `dequantize_row_*` of
//! llama.cpp's `ggml-quants.c`; the order of the arithmetic is upstream's too, so values have its bits.

use super::simd::{Bytes, LANES, Simd};
use crate::dtype::E2M1_DOUBLED;
use crate::{GgmlType, e8m0_to_f32};

/// Columns of a part.
pub(super) const PART: usize = 2 * LANES;

/// A format. Its columns decode in independent parts.
pub(super) trait Parts {
    /// Its name among the others.
    const KIND: GgmlType;
    /// Columns `part * PART ..` of one block.
    fn load<S: Simd>(s: S, block: &[u8], part: usize) -> [S::V; 2];
}

/// Evaluates `$body` with `$format` the [`Parts`] of `$kind`.
macro_rules! with_parts {
    ($kind:expr, $format:ident => $body:expr) => {
        with_parts!($kind, $format, $body, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs Mxfp4)
    };
    ($kind:expr, $format:ident, $body:expr, $($name:ident)*) => {
        match $kind {
            $(crate::GgmlType::$name => {
                type $format = crate::cpu::ggml_parts::$name;
                $body
            })*
        }
    };
}
pub(super) use with_parts;

/// The uneven steps of IQ4_NL and IQ4_XS (`kvalues_iq4nl` upstream).
const IQ4_STEPS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q8_0;
pub(super) struct Q2K;
pub(super) struct Q3K;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;
pub(super) struct Iq4Nl;
pub(super) struct Iq4Xs;
pub(super) struct Mxfp4;

impl Parts for Q4_0 {
    const KIND: GgmlType = GgmlType::Q4_0;

    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], _: usize) -> [S::V; 2] {
        scaled(s, less(8, nibbles(s, block, 2)), [half(s, block, 0); 2])
    }
}

impl Parts for Q4_1 {
    const KIND: GgmlType = GgmlType::Q4_1;

    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], _: usize) -> [S::V; 2] {
        let [first, second] = scaled(s, nibbles(s, block, 4), [half(s, block, 0); 2]);
        let min = half(s, block, 2);
        [s.add(first, min), s.add(second, min)]
    }
}

impl Parts for Q5_0 {
    const KIND: GgmlType = GgmlType::Q5_0;

    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], _: usize) -> [S::V; 2] {
        scaled(s, less(16, five_bits(s, block, 6)), [half(s, block, 0); 2])
    }
}

impl Parts for Q5_1 {
    const KIND: GgmlType = GgmlType::Q5_1;

    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], _: usize) -> [S::V; 2] {
        let codes = five_bits(s, block, 8);
        let [first, second] = scaled(s, codes, [half(s, block, 0); 2]);
        let min = half(s, block, 2);
        [s.add(first, min), s.add(second, min)]
    }
}

impl Parts for Q8_0 {
    const KIND: GgmlType = GgmlType::Q8_0;

    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], _: usize) -> [S::V; 2] {
        scaled(s, [bytes(s, block, 2), bytes(s, block, 2 + LANES)], [half(s, block, 0); 2])
    }
}

impl Parts for Q2K {
    const KIND: GgmlType = GgmlType::Q2K;

    /// 128 columns share 32 bytes, two bits each; 16 columns have a byte with their scale below and their minimum above.
    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], part: usize) -> [S::V; 2] {
        let codes = shifted(s, block, 16 + part / 4 * PART, part % 4 * 2, 3);
        let small = [block[2 * part], block[2 * part + 1]];
        let (scale, min) = (half(s, block, 80), half(s, block, 82));
        let mut out = scaled(s, codes, [small[0] & 15, small[1] & 15].map(|small| times(s, scale, small)));
        for i in 0..2 {
            out[i] = s.sub(out[i], s.mul(min, s.splat((small[i] >> 4).into())));
        }
        out
    }
}

impl Parts for Q3K {
    const KIND: GgmlType = GgmlType::Q3K;

    /// As [`Q2K`], with a third bit in the first 32 bytes (one that is not set takes 4 away), scales of six bits, no minima.
    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], part: usize) -> [S::V; 2] {
        let low = shifted(s, block, 32 + part / 4 * PART, part % 4 * 2, 3);
        let high = shifted(s, block, 0, part, 1);
        let mut scales = [half(s, block, 108); 2];
        for i in 0..2 {
            // Four bits of sixteen scales in eight bytes, the first eight low; of the upper two bits in the next four.
            let (small, scale) = (&block[96..108], 2 * part + i);
            let low = small[scale % 8] >> (scale / 8 * 4) & 15;
            let high = small[8 + scale % 4] >> (scale / 4 * 2) & 3;
            scales[i] = s.mul(scales[i], s.splat(f32::from((low | high << 4) as i8 - 32)));
        }
        scaled(s, less(4, with_high(low, high, 2)), scales)
    }
}

impl Parts for Q4K {
    const KIND: GgmlType = GgmlType::Q4K;

    /// Two parts share 32 bytes: the first has their low halves.
    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], part: usize) -> [S::V; 2] {
        k4_scaled(s, shifted(s, block, 16 + part / 2 * PART, part % 2 * 4, 15), block, part)
    }
}

impl Parts for Q5K {
    const KIND: GgmlType = GgmlType::Q5K;

    /// As [`Q4K`], with 32 bytes before the codes that have the fifth bits of all parts.
    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], part: usize) -> [S::V; 2] {
        let codes = shifted(s, block, 48 + part / 2 * PART, part % 2 * 4, 15);
        k4_scaled(s, with_high(codes, shifted(s, block, 16, part, 1), 4), block, part)
    }
}

impl Parts for Q6K {
    const KIND: GgmlType = GgmlType::Q6K;

    /// Of 128 columns the low four bits lie in 64 bytes (the first 64 columns in the low halves), the upper two in 32 bytes;
    /// a scale has 16 columns.
    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], part: usize) -> [S::V; 2] {
        let (half_block, quarter) = (part / 4, part % 4);
        let low = shifted(s, block, half_block * 64 + quarter % 2 * PART, quarter / 2 * 4, 15);
        let high = shifted(s, block, 128 + half_block * PART, quarter * 2, 3);
        let scale = half(s, block, 208);
        let small = &block[192 + 2 * part..][..2];
        let scales = [small[0], small[1]].map(|small| s.mul(scale, s.splat(f32::from(small as i8))));
        scaled(s, less(32, with_high(low, high, 4)), scales)
    }
}

impl Parts for Iq4Nl {
    const KIND: GgmlType = GgmlType::Iq4Nl;

    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], _: usize) -> [S::V; 2] {
        looked_up(s, nibbles(s, block, 2), &IQ4_STEPS, half(s, block, 0))
    }
}

impl Parts for Iq4Xs {
    const KIND: GgmlType = GgmlType::Iq4Xs;

    /// Bytes 0-1 the common scale, 2-3 the upper two bits of eight scales, 4-7 their lower four, then 32 columns in 16 bytes.
    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], part: usize) -> [S::V; 2] {
        let low = block[4 + part / 2] >> (part % 2 * 4) & 15;
        let high = block[2 + part / 4] >> (part % 4 * 2) & 3;
        let scale = s.mul(half(s, block, 0), s.splat(f32::from((low | high << 4) as i8 - 32)));
        looked_up(s, nibbles(s, block, 8 + part * LANES), &IQ4_STEPS, scale)
    }
}

impl Parts for Mxfp4 {
    const KIND: GgmlType = GgmlType::Mxfp4;

    #[inline(always)]
    fn load<S: Simd>(s: S, block: &[u8], _: usize) -> [S::V; 2] {
        // The table has twice the values.
        looked_up(s, nibbles(s, block, 1), &E2M1_DOUBLED, s.splat(0.5 * e8m0_to_f32(block[0])))
    }
}

/// The half-precision number at byte `at`, in all lanes.
#[inline(always)]
fn half<S: Simd>(s: S, block: &[u8], at: usize) -> S::V {
    s.splat_f16([block[at], block[at + 1]])
}

/// `scale` times a small scale.
#[inline(always)]
fn times<S: Simd>(s: S, scale: S::V, small: u8) -> S::V {
    s.mul(scale, s.splat(small.into()))
}

/// Sixteen bytes from `at`.
#[inline(always)]
fn bytes<S: Simd>(s: S, block: &[u8], at: usize) -> S::B {
    s.load_bytes(&block[at..].as_chunks().0[0])
}

/// Sixteen bytes from `at`: their low halves, then their high ones.
#[inline(always)]
fn nibbles<S: Simd>(s: S, block: &[u8], at: usize) -> [S::B; 2] {
    let codes = bytes(s, block, at);
    [codes.bits(0, 15), codes.bits(4, 15)]
}

/// The bits of `mask` of thirty-two bytes from `at`, counted from bit `shift`.
#[inline(always)]
fn shifted<S: Simd>(s: S, block: &[u8], at: usize, shift: usize, mask: u8) -> [S::B; 2] {
    let shift = shift as u32;
    [bytes(s, block, at).bits(shift, mask), bytes(s, block, at + LANES).bits(shift, mask)]
}

/// `low` with `high` above its `bits`.
#[inline(always)]
fn with_high<B: Bytes>(low: [B; 2], high: [B; 2], bits: u32) -> [B; 2] {
    [low[0].with_high(high[0], bits), low[1].with_high(high[1], bits)]
}

/// Codes of four bits in sixteen bytes from `at`, with a fifth each in the four bytes before them.
#[inline(always)]
fn five_bits<S: Simd>(s: S, block: &[u8], at: usize) -> [S::B; 2] {
    let fifth = &block[at - 4..at];
    let high = [s.spread_bits([fifth[0], fifth[1]]), s.spread_bits([fifth[2], fifth[3]])];
    with_high(nibbles(s, block, at), high, 4)
}

/// `codes` less `zero`.
#[inline(always)]
fn less<B: Bytes>(zero: u8, codes: [B; 2]) -> [B; 2] {
    [codes[0].less(zero), codes[1].less(zero)]
}

/// Codes times the scale of their sixteen columns.
#[inline(always)]
fn scaled<S: Simd>(s: S, codes: [S::B; 2], scales: [S::V; 2]) -> [S::V; 2] {
    [s.mul(s.widen(codes[0]), scales[0]), s.mul(s.widen(codes[1]), scales[1])]
}

/// As [`scaled`], for Q4_K and Q5_K: eight scales and minima of six bits, of the later four the upper two in the top of the
/// first eight bytes.
#[inline(always)]
fn k4_scaled<S: Simd>(s: S, codes: [S::B; 2], block: &[u8], part: usize) -> [S::V; 2] {
    let (small, p) = (&block[4..16], part % 4);
    let [scale, min] = match part / 4 {
        0 => [small[p] & 63, small[p + 4] & 63],
        _ => [small[p + 8] & 15 | small[p] >> 6 << 4, small[p + 8] >> 4 | small[p + 4] >> 6 << 4],
    };
    let [first, second] = scaled(s, codes, [times(s, half(s, block, 0), scale); 2]);
    let min = times(s, half(s, block, 2), min);
    [s.sub(first, min), s.sub(second, min)]
}

/// What `table` has for the codes, times `scale`.
#[inline(always)]
fn looked_up<S: Simd>(s: S, codes: [S::B; 2], table: &[i8; 16], scale: S::V) -> [S::V; 2] {
    scaled(s, [s.look_up(codes[0], table), s.look_up(codes[1], table)], [scale; 2])
}

/// Decodes whole parts: `bytes` are blocks of the format, `out` their columns.
#[inline(always)]
pub(super) fn decode_parts<S: Simd, F: Parts>(s: S, bytes: &[u8], out: &mut [f32]) {
    let (len, size) = (F::KIND.block_len(), F::KIND.block_bytes());
    for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(len)) {
        for (part, out) in out.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
            let [first, second] = F::load(s, block, part);
            let out = out.as_chunks_mut::<LANES>().0;
            s.store(first, &mut out[0]);
            s.store(second, &mut out[1]);
        }
    }
}
