//! One packed matrix as the CPU kernels see it: typed rows, decoded sixteen elements at a time.

use half::{bf16, f16};

use super::ggml::Blocks;
use super::nibbles::{Nibbles, decode_nibbles};
use super::simd::{LANES, Simd};
use crate::{BlockScales, DType, Weight, WeightFormat};

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
            Data::I8(values, _) => s.prefetch(values.get(range).unwrap_or(&[]), 0),
            Data::Four(nibbles) => {
                s.prefetch(nibbles.codes.get(first / 2..(first + count) / 2).unwrap_or(&[]), 0);
            }
            Data::Ggml(blocks) => s.prefetch(blocks.part(first, count).unwrap_or(&[]), 0),
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
    /// `I8` with block scales.
    I8(&'a [i8], Scales<'a>),
    /// 4-bit codes with groups of columns.
    Four(Nibbles<'a>),
    /// Blocks with their scales inside.
    Ggml(Blocks<'a>),
}

/// The block scales of one matrix.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    values: &'a [f32],
    per_row: usize,
    block_rows: usize,
    /// Columns of one block; of the only block of a row, whole vectors.
    pub(super) block_cols: usize,
}

impl<'a> Scales<'a> {
    /// The scales of matrix `expert`.
    fn new(blocks: &'a BlockScales, expert: usize, cols: usize) -> Self {
        let [rows, per_row] = [1, 2].map(|axis| blocks.scales.dim(axis));
        let all: &[f32] = bytemuck::cast_slice(blocks.scales.bytes());
        let values = &all[expert * rows * per_row..][..rows * per_row];
        let block_cols = if per_row == 1 { cols.next_multiple_of(LANES) } else { blocks.block_cols };
        Self { values, per_row, block_rows: blocks.block_rows, block_cols }
    }

    /// The scales of row `row`, one per block of columns.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row / self.block_rows * self.per_row..][..self.per_row]
    }

    /// Whether `scale` times [`Element::UNIT`] is finite, so that the two can be one factor. Real scales are far smaller.
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
        let [experts, rows, cols] = weight.shape();
        let size = weight.data().size_bytes() / experts.max(1);
        let bytes = &weight.data().bytes()[expert * size..][..size];
        let data = match weight.format() {
            WeightFormat::Float => match weight.dtype() {
                DType::F16 => Data::F16(bytemuck::cast_slice(bytes)),
                DType::BF16 => Data::Bf16(bytemuck::cast_slice(bytes)),
                _ => Data::F32(bytemuck::cast_slice(bytes)),
            },
            WeightFormat::Fp8(blocks) => Data::F8(bytes, Scales::new(blocks, expert, cols)),
            WeightFormat::Int8(blocks) => {
                Data::I8(bytemuck::cast_slice(bytes), Scales::new(blocks, expert, cols))
            }
            WeightFormat::Fp4(exponents) => Data::Four(Nibbles::fp4(bytes, exponents, expert)),
            WeightFormat::Int4(groups) => Data::Four(Nibbles::int4(bytes, groups, expert)),
            WeightFormat::Ggml(kind) => Data::Ggml(Blocks { kind: *kind, bytes }),
        };
        Self { rows, cols, data }
    }

    /// Multiply-adds of this matrix with `tokens` vectors.
    pub(super) fn work(&self, tokens: usize) -> usize {
        self.rows * self.cols * tokens
    }

    /// Whether [`super::few_rows`] can run over the packed elements themselves.
    pub(super) fn is_regular(&self) -> bool {
        match self.data {
            Data::F32(_) | Data::F16(_) | Data::Bf16(_) => true,
            Data::F8(_, scales) | Data::I8(_, scales) => scales.is_regular(),
            Data::Four(_) | Data::Ggml(_) => false,
        }
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
                decode_blocks(s, &values[first..][..count], (scales.row(row), scales.block_cols), start, out);
            }
            Data::I8(values, scales) => {
                decode_blocks(s, &values[first..][..count], (scales.row(row), scales.block_cols), start, out);
            }
            Data::Four(nibbles) => decode_nibbles(s, &nibbles, row, self.cols, start, out),
            Data::Ggml(blocks) => blocks.decode::<S>(first, out),
        }
    }
}

/// A stored element; zero bits are the value zero in all of them.
pub(super) trait Element: bytemuck::Pod {
    /// Whether a block scale belongs to the element.
    const SCALED: bool = false;
    /// What [`Element::load`] leaves out, a factor that goes into the block scale.
    const UNIT: f32 = 1.0;
    /// Sixteen values divided by [`Element::UNIT`]; of e4m3 see [`Simd::load_e4m3_finite`].
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V;
    /// Whether there is an element that [`Element::load`] cannot decode.
    #[inline(always)]
    fn has_nan<S: Simd>(_: S, _: &[Self]) -> bool {
        false
    }
    /// One value, whatever it is.
    fn value(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load(from)
    }

    fn value(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_f16(from)
    }

    fn value(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_bf16(from)
    }

    fn value(self) -> f32 {
        self.to_f32()
    }
}

impl Element for u8 {
    const SCALED: bool = true;
    const UNIT: f32 = 256.0;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_e4m3_finite(from)
    }

    #[inline(always)]
    fn has_nan<S: Simd>(s: S, from: &[Self]) -> bool {
        s.has_e4m3_nan(from)
    }

    fn value(self) -> f32 {
        crate::e4m3_to_f32(self)
    }
}

impl Element for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_i8(from)
    }

    fn value(self) -> f32 {
        self.into()
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

/// Columns from `start` of a row that has `scales`, one for each `block_cols` columns.
#[inline(always)]
fn decode_blocks<S: Simd, E: Element>(
    s: S,
    from: &[E],
    (scales, block_cols): (&[f32], usize),
    start: usize,
    out: &mut [f32],
) {
    let mut done = 0;
    while done < from.len() {
        let col = start + done;
        let run = (block_cols - col % block_cols).min(from.len() - done);
        decode_scaled(s, &from[done..][..run], scales[col / block_cols], &mut out[done..][..run]);
        done += run;
    }
}

/// A run of elements under one scale.
#[inline(always)]
fn decode_scaled<S: Simd, E: Element>(s: S, from: &[E], scale: f32, out: &mut [f32]) {
    if !Scales::folds(scale) || E::has_nan(s, from) {
        for (out, &element) in out.iter_mut().zip(from) {
            *out = element.value() * scale;
        }
        return;
    }
    let factor = s.splat(scale * E::UNIT);
    let (chunks, tail) = from.as_chunks::<LANES>();
    let (out_chunks, out_tail) = out.as_chunks_mut::<LANES>();
    for (out, chunk) in out_chunks.iter_mut().zip(chunks) {
        s.store(s.mul(E::load(s, chunk), factor), out);
    }
    if !tail.is_empty() {
        let mut lanes = [0.0; LANES];
        s.store(s.mul(E::load(s, &padded(tail)), factor), &mut lanes);
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
