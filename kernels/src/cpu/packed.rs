//! One packed matrix as the CPU kernels see it: typed rows, decoded sixteen elements at a time.

use half::{bf16, f16};

use super::simd::{LANES, Simd};
use crate::{DType, Weight};

/// What [`Simd::load_e4m3_finite`] leaves out.
pub(super) const E4M3_UNIT: f32 = 256.0;

/// One `[N, K]` matrix of a [`Weight`].
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    /// Out features `N`.
    pub(super) rows: usize,
    /// In features `K`.
    pub(super) cols: usize,
    /// The elements.
    pub(super) data: Data<'a>,
}

impl Matrix<'_> {
    /// Asks for columns `start .. start + count` of `row` ahead of their use; past the end it asks for nothing.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(&self, s: S, row: usize, start: usize, count: usize) {
        let first = row * self.cols + start;
        let range = first..first + count;
        match self.data {
            Data::F32(values) => s.prefetch(values.get(range).unwrap_or(&[]), 0),
            Data::F16(values) => s.prefetch(values.get(range).unwrap_or(&[]), 0),
            Data::Bf16(values) => s.prefetch(values.get(range).unwrap_or(&[]), 0),
            Data::F8(values, _) => s.prefetch(values.get(range).unwrap_or(&[]), 0),
        }
    }
}

/// Elements by stored form.
#[derive(Clone, Copy)]
pub(super) enum Data<'a> {
    /// `F32`.
    F32(&'a [f32]),
    /// `F16`.
    F16(&'a [f16]),
    /// `BF16`.
    Bf16(&'a [bf16]),
    /// `F8_E4M3` with block scales.
    F8(&'a [u8], Scales<'a>),
}

/// The block scales of one matrix.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    values: &'a [f32],
    per_row: usize,
    block_rows: usize,
    /// Columns of one block.
    pub(super) block_cols: usize,
}

impl<'a> Scales<'a> {
    /// The scales of row `row`, one per block of columns.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row / self.block_rows * self.per_row..][..self.per_row]
    }

    /// Whether `scale` times [`E4M3_UNIT`] is finite, so that the two can be one factor. Real scales are far smaller.
    #[inline(always)]
    fn folds(scale: f32) -> bool {
        scale.abs() < 1e30
    }

    /// Whether a dot product can run over the packed bytes: whole vectors under one scale, and one factor for both.
    fn is_regular(&self) -> bool {
        self.block_cols.is_multiple_of(LANES) && self.values.iter().all(|&s| Self::folds(s))
    }
}

impl<'a> Matrix<'a> {
    /// Matrix `expert` of `weight`.
    pub(super) fn new(weight: &'a Weight, expert: usize) -> Self {
        let (rows, cols) = (weight.rows(), weight.cols());
        let size = rows * cols * weight.dtype().size();
        let bytes = &weight.data().bytes()[expert * size..][..size];
        let data = match (weight.dtype(), weight.scales()) {
            (DType::F32, _) => Data::F32(bytemuck::cast_slice(bytes)),
            (DType::F16, _) => Data::F16(bytemuck::cast_slice(bytes)),
            (DType::BF16, _) => Data::Bf16(bytemuck::cast_slice(bytes)),
            (DType::F8E4M3, Some(s)) => {
                let [_, scale_rows, per_row] = [0, 1, 2].map(|axis| s.scales.dim(axis));
                let all: &[f32] = bytemuck::cast_slice(s.scales.bytes());
                let values = &all[expert * scale_rows * per_row..][..scale_rows * per_row];
                Data::F8(
                    bytes,
                    Scales { values, per_row, block_rows: s.block_rows, block_cols: s.block_cols },
                )
            }
            (dtype, _) => unreachable!("Weight::new admits no {dtype} in this form"),
        };
        Self { rows, cols, data }
    }

    /// Multiply-adds of this matrix with `tokens` vectors.
    pub(super) fn work(&self, tokens: usize) -> usize {
        self.rows * self.cols * tokens
    }

    /// Whether [`super::gemv`] can run over the packed elements themselves.
    pub(super) fn is_regular(&self) -> bool {
        !matches!(self.data, Data::F8(_, scales) if !scales.is_regular())
    }

    /// Decodes columns `start .. start + out.len()` of `row`.
    #[inline(always)]
    pub(super) fn decode<S: Simd>(&self, s: S, row: usize, start: usize, out: &mut [f32]) {
        let first = row * self.cols + start;
        let count = out.len();
        assert!(start + count <= self.cols, "columns {start} + {count} of {}", self.cols);
        match self.data {
            Data::F32(values) => out.copy_from_slice(&values[first..][..count]),
            Data::F16(values) => decode_run(s, &values[first..][..count], out),
            Data::Bf16(values) => decode_run(s, &values[first..][..count], out),
            Data::F8(values, scales) => {
                let (mut done, row_scales) = (0, scales.row(row));
                while done < count {
                    let col = start + done;
                    let run = (scales.block_cols - col % scales.block_cols).min(count - done);
                    let bytes = &values[first + done..][..run];
                    let scale = row_scales[col / scales.block_cols];
                    decode_e4m3(s, bytes, scale, &mut out[done..][..run]);
                    done += run;
                }
            }
        }
    }
}

/// A stored element; zero bits are the value zero in all of them.
pub(super) trait Element: bytemuck::Pod {
    /// Whether a block scale belongs to the element.
    const SCALED: bool = false;
    /// Sixteen values; of the 8-bit form see [`Simd::load_e4m3_finite`].
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load(from)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_f16(from)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_bf16(from)
    }
}

impl Element for u8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_e4m3_finite(from)
    }
}

/// A run of elements that have no scale.
#[inline(always)]
fn decode_run<S: Simd, E: Element>(s: S, from: &[E], out: &mut [f32]) {
    let (chunks, tail) = from.as_chunks::<LANES>();
    let (out_chunks, out_tail) = out.as_chunks_mut::<LANES>();
    for (out, chunk) in out_chunks.iter_mut().zip(chunks) {
        s.store(E::load(s, chunk), out);
    }
    if !tail.is_empty() {
        let mut lanes = [0.0; LANES];
        s.store(E::load(s, &padded(tail)), &mut lanes);
        out_tail.copy_from_slice(&lanes[..tail.len()]);
    }
}

/// A run of e4m3 bytes under one scale.
#[inline(always)]
fn decode_e4m3<S: Simd>(s: S, from: &[u8], scale: f32, out: &mut [f32]) {
    if !Scales::folds(scale) || s.has_e4m3_nan(from) {
        for (out, &byte) in out.iter_mut().zip(from) {
            *out = crate::e4m3_to_f32(byte) * scale;
        }
        return;
    }
    let factor = s.splat(scale * E4M3_UNIT);
    let (chunks, tail) = from.as_chunks::<LANES>();
    let (out_chunks, out_tail) = out.as_chunks_mut::<LANES>();
    for (out, chunk) in out_chunks.iter_mut().zip(chunks) {
        s.store(s.mul(s.load_e4m3_finite(chunk), factor), out);
    }
    if !tail.is_empty() {
        let mut lanes = [0.0; LANES];
        s.store(s.mul(s.load_e4m3_finite(&padded(tail)), factor), &mut lanes);
        out_tail.copy_from_slice(&lanes[..tail.len()]);
    }
}

/// Up to sixteen elements, filled up with zeros.
#[inline(always)]
pub(super) fn padded<E: bytemuck::Pod>(tail: &[E]) -> [E; LANES] {
    let mut lanes = [E::zeroed(); LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}
