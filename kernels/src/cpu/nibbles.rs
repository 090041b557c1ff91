//! The 4-bit forms of a packed matrix: FP4 with an exponent per 32 columns, INT4 with a scale and a zero point per group.

use half::bf16;

use super::simd::{LANES, Simd};
use crate::dtype::E2M1_DOUBLED;
use crate::{DType, GroupScales, Tensor, WeightFormat, e8m0_to_f32};

/// What an unsigned code is worth before its zero point.
const UNSIGNED: [i8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// One matrix of 4-bit codes.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<'a> {
    /// Two columns per byte, low half first.
    pub(super) codes: &'a [u8],
    groups: Groups<'a>,
    group: usize,
    per_row: usize,
}

/// What a group of columns has in common.
#[derive(Clone, Copy)]
enum Groups<'a> {
    /// Exponents of e2m1 codes.
    Fp4(&'a [u8]),
    /// Scales and zero points of unsigned codes.
    F32(&'a [f32], &'a [u8]),
    /// The same with short scales.
    Bf16(&'a [bf16], &'a [u8]),
}

/// The part of `tensor` `[E, N, groups]` that belongs to `expert`.
fn part(tensor: &Tensor, expert: usize) -> &[u8] {
    let size = tensor.size_bytes() / tensor.dim(0).max(1);
    &tensor.bytes()[expert * size..][..size]
}

impl<'a> Nibbles<'a> {
    /// Matrix `expert` of an FP4 weight.
    pub(super) fn fp4(codes: &'a [u8], exponents: &'a Tensor, expert: usize) -> Self {
        let groups = Groups::Fp4(part(exponents, expert));
        Self { codes, groups, group: WeightFormat::FP4_GROUP, per_row: exponents.dim(2) }
    }

    /// Matrix `expert` of an INT4 weight.
    pub(super) fn int4(codes: &'a [u8], groups: &'a GroupScales, expert: usize) -> Self {
        let (scales, zeros) = (part(&groups.scales, expert), part(&groups.zeros, expert));
        let values = match groups.scales.dtype() {
            DType::BF16 => Groups::Bf16(bytemuck::cast_slice(scales), zeros),
            _ => Groups::F32(bytemuck::cast_slice(scales), zeros),
        };
        Self { codes, groups: values, group: groups.group, per_row: groups.scales.dim(2) }
    }

    /// Table, zero point and scale of group `at`, counted through all rows.
    #[inline(always)]
    fn group(&self, at: usize) -> (&'static [i8; 16], f32, f32) {
        match self.groups {
            // The table has twice the values.
            Groups::Fp4(exponents) => (&E2M1_DOUBLED, 0.0, 0.5 * e8m0_to_f32(exponents[at])),
            Groups::F32(scales, zeros) => (&UNSIGNED, f32::from(zeros[at]), scales[at]),
            Groups::Bf16(scales, zeros) => (&UNSIGNED, f32::from(zeros[at]), scales[at].to_f32()),
        }
    }
}

/// Decodes columns `start .. start + out.len()` of `row`; both are even.
#[inline(always)]
pub(super) fn decode_nibbles<S: Simd>(
    s: S,
    matrix: &Nibbles<'_>,
    row: usize,
    cols: usize,
    start: usize,
    out: &mut [f32],
) {
    assert!(start.is_multiple_of(2) && out.len().is_multiple_of(2), "whole bytes: {start}, {}", out.len());
    let mut done = 0;
    while done < out.len() {
        let col = start + done;
        let run = (matrix.group - col % matrix.group).min(out.len() - done);
        let (table, zero, scale) = matrix.group(row * matrix.per_row + col / matrix.group);
        let (zero, scale) = (s.splat(zero), s.splat(scale));
        let codes = &matrix.codes[(row * cols + col) / 2..][..run / 2];
        let (chunks, tail) = codes.as_chunks::<{ LANES / 2 }>();
        let (out_chunks, out_tail) = out[done..][..run].as_chunks_mut::<LANES>();
        for (out, chunk) in out_chunks.iter_mut().zip(chunks) {
            s.store(s.mul(s.sub(s.load_nibbles(chunk, table), zero), scale), out);
        }
        if !tail.is_empty() {
            let (mut last, mut lanes) = ([0; LANES / 2], [0.0; LANES]);
            last[..tail.len()].copy_from_slice(tail);
            s.store(s.mul(s.sub(s.load_nibbles(&last, table), zero), scale), &mut lanes);
            out_tail.copy_from_slice(&lanes[..out_tail.len()]);
        }
        done += run;
    }
}
