//! Blocks of ggml to `f32`: candle-core's decoders for the formats it knows, ours for the others.

use candle_core::quantized::{GgmlType as CandleBlock, k_quants};
use half::f16;

use crate::dtype::E2M1_DOUBLED;
use crate::{GgmlType, e8m0_to_f32};

/// The uneven steps of IQ4_NL and IQ4_XS (`kvalues_iq4nl` upstream).
const IQ4_STEPS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// One matrix of blocks, row after row.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) kind: GgmlType,
    pub(super) bytes: &'a [u8],
}

impl Blocks<'_> {
    /// The bytes of elements `first .. first + count`, both whole blocks.
    #[inline(always)]
    pub(super) fn part(&self, first: usize, count: usize) -> Option<&[u8]> {
        let (len, size) = (self.kind.block_len(), self.kind.block_bytes());
        self.bytes.get(first / len * size..(first + count) / len * size)
    }

    /// Decodes elements `first .. first + out.len()`, counted through all rows.
    ///
    /// # Panics
    /// If the range is not made of whole blocks: slices of a weight and the depth of a panel keep them together.
    pub(super) fn decode(&self, first: usize, out: &mut [f32]) {
        let len = self.kind.block_len();
        assert!(first.is_multiple_of(len) && out.len().is_multiple_of(len), "whole blocks of {len}");
        let size = self.kind.block_bytes();
        decode_ggml(self.kind, &self.bytes[first / len * size..][..out.len() / len * size], out);
    }
}

/// Decodes `bytes`, blocks of `kind` that begin at an even address, into `out`, which has a place for every column.
///
/// # Panics
/// If the lengths do not agree.
pub fn decode_ggml(kind: GgmlType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(kind.row_bytes(out.len()), Some(bytes.len()), "one place per column of {kind}");
    match kind {
        GgmlType::Q4_0 => by_candle::<k_quants::BlockQ4_0>(bytes, out),
        GgmlType::Q4_1 => by_candle::<k_quants::BlockQ4_1>(bytes, out),
        GgmlType::Q5_0 => by_candle::<k_quants::BlockQ5_0>(bytes, out),
        GgmlType::Q5_1 => by_candle::<k_quants::BlockQ5_1>(bytes, out),
        GgmlType::Q8_0 => by_candle::<k_quants::BlockQ8_0>(bytes, out),
        GgmlType::Q2K => by_candle::<k_quants::BlockQ2K>(bytes, out),
        GgmlType::Q3K => by_candle::<k_quants::BlockQ3K>(bytes, out),
        GgmlType::Q4K => by_candle::<k_quants::BlockQ4K>(bytes, out),
        GgmlType::Q5K => by_candle::<k_quants::BlockQ5K>(bytes, out),
        GgmlType::Q6K => by_candle::<k_quants::BlockQ6K>(bytes, out),
        GgmlType::Iq4Nl => each(bytes, out, |block: &[u8; 18], out: &mut [f32; 32]| {
            table_codes(&block[2..], &IQ4_STEPS, half_at(block, 0), out);
        }),
        GgmlType::Iq4Xs => each(bytes, out, iq4_xs),
        GgmlType::Mxfp4 => each(bytes, out, |block: &[u8; 17], out: &mut [f32; 32]| {
            // The table has twice the values.
            table_codes(&block[1..], &E2M1_DOUBLED, 0.5 * e8m0_to_f32(block[0]), out);
        }),
    }
}

/// candle's own decoder. `B` is one of the block types that [`decode_ggml`] names.
fn by_candle<B: CandleBlock>(bytes: &[u8], out: &mut [f32]) {
    let (blocks, at) = (bytes.len() / size_of::<B>(), bytes.as_ptr().cast::<B>());
    assert!(at.is_aligned() && blocks * size_of::<B>() == bytes.len(), "whole aligned blocks");
    // SAFETY: by the assertion `at` is aligned for `B` and `blocks` of them fill `bytes`, which are borrowed for as long
    // as the slice lives. candle's block types are `repr(C)` structs of halves and bytes without padding (it asserts
    // their sizes), for which every bit pattern is a value.
    let blocks = unsafe { std::slice::from_raw_parts(at, blocks) };
    B::to_float(blocks, out);
}

/// Block by block.
fn each<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}

/// Sixteen bytes of codes: the low halves are the first 16 columns, the high halves the last 16.
fn table_codes(codes: &[u8], table: &[i8; 16], scale: f32, out: &mut [f32; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((code, low), high) in codes.iter().zip(low).zip(high) {
        *low = f32::from(table[usize::from(code & 15)]) * scale;
        *high = f32::from(table[usize::from(code >> 4)]) * scale;
    }
}

/// Bytes 0-1 the common scale, 2-3 the upper two bits of eight scales, 4-7 their lower four, then 32 columns in 16 bytes.
fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let (d, high) = (half_at(block, 0), u16::from_le_bytes([block[2], block[3]]));
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
        let scale = i16::from(low) | ((high >> (2 * i) & 3) << 4) as i16;
        table_codes(&block[8 + 16 * i..][..16], &IQ4_STEPS, d * f32::from(scale - 32), out);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
