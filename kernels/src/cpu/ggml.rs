//! Matrices of ggml's blocks, and blocks to `f32`.

use super::ggml_parts::{decode_parts, with_parts};
use super::level::{Kernel, Level};
use super::simd::Simd;
use crate::GgmlType;

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
    #[inline(always)]
    pub(super) fn decode<S: Simd>(&self, first: usize, out: &mut [f32]) {
        let len = self.kind.block_len();
        assert!(first.is_multiple_of(len) && out.len().is_multiple_of(len), "whole blocks of {len}");
        let size = self.kind.block_bytes();
        let bytes = &self.bytes[first / len * size..][..out.len() / len * size];
        // Through the level: one copy of the machine code for all kernels that decode.
        S::LEVEL.run(Decode { kind: self.kind, bytes, out });
    }
}

/// Decodes `bytes`, blocks of `kind`, into `out`, which has a place for every column.
///
/// # Panics
/// If the lengths do not agree.
pub fn decode_ggml(kind: GgmlType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(kind.row_bytes(out.len()), Some(bytes.len()), "one place per column of {kind}");
    Level::detect().run(Decode { kind, bytes, out });
}

/// Whole blocks and a place for each of their columns.
struct Decode<'a> {
    kind: GgmlType,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_parts!(self.kind, F => decode_parts::<S, F>(s, self.bytes, self.out));
    }
}
