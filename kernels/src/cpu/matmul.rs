//! Activation rows times the rows of a packed weight: the block that linear layers, SwiGLU, experts and MLA's value
//! projection are made of, and the first two themselves.
//!
//! Both operands lie along `k`, so no packing is needed: a tile of 6x4 pairs reads ten rows and keeps 24 accumulators.
//! The canonical order of a dot product, which every path keeps, is: `k` in blocks of [`DEPTH`], sixteen running sums
//! per block, folded, the blocks added up in order. So a row's result is the same bits alone or in any batch, and
//! chunked prefill equals prefill in one go.

use std::ops::Range;

use super::few_rows::{FEW, few_rows};
use super::level::{Kernel, Level};
use super::memory::Scratch;
use super::packed::{Matrix, padded};
use super::parallel::{Disjoint, block, block_size, for_each};
use super::simd::{LANES, Simd, silu};
use super::tile::{Lanes, TILE_ROWS, dots};
use crate::Weight;

/// Columns of a block of `k`: four decoded weight rows and six activation rows of it fit the L1 cache.
pub(super) const DEPTH: usize = 1024;

/// Weight rows decoded at once when many tokens reuse them: with [`DEPTH`] a quarter megabyte, within L2.
const PANEL_ROWS: usize = 64;

/// Rows of activations in whole vectors.
pub(super) struct Rows<'a> {
    data: Source<'a>,
    offset: usize,
    stride: usize,
    width: usize,
    count: usize,
}

enum Source<'a> {
    Borrowed(&'a [f32]),
    Copied(Scratch),
}

impl<'a> Rows<'a> {
    /// `count` rows of `width` values, row `i` at `offset + i * stride` of `data`.
    pub(super) fn strided(
        data: &'a [f32],
        (offset, stride): (usize, usize),
        width: usize,
        count: usize,
    ) -> Self {
        if width.is_multiple_of(LANES) {
            return Self { data: Source::Borrowed(data), offset, stride, width, count };
        }
        Self::collect(width, (0..count).map(|i| &data[offset + i * stride..][..width]))
    }

    /// The rows of a dense matrix.
    pub(super) fn dense(data: &'a [f32], width: usize) -> Self {
        Self::strided(data, (0, width), width, data.len().checked_div(width).unwrap_or(0))
    }

    /// Copies of `rows` of `width` values.
    pub(super) fn collect<'r>(width: usize, rows: impl ExactSizeIterator<Item = &'r [f32]>) -> Rows<'static> {
        let (padded, count) = (width.next_multiple_of(LANES), rows.len());
        let mut data = Scratch::zeroed(count * padded);
        for (to, row) in data.chunks_exact_mut(padded.max(1)).zip(rows) {
            to[..width].copy_from_slice(row);
        }
        Rows { data: Source::Copied(data), offset: 0, stride: padded, width: padded, count }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    #[inline(always)]
    fn row(&self, i: usize) -> Lanes<'_> {
        let data = match &self.data {
            Source::Borrowed(data) => data,
            Source::Copied(data) => &**data,
        };
        data[self.offset + i * self.stride..][..self.width].as_chunks().0
    }
}

/// `out[t, i] = x[t] . weight[rows.start + i]`, `[T, rows.len()]`.
pub(super) fn project(level: Level, x: &Rows<'_>, weight: &Matrix<'_>, rows: Range<usize>, out: &mut [f32]) {
    assert!(rows.end <= weight.rows && out.len() == x.len() * rows.len(), "a block of the output");
    if x.len() > FEW || !weight.is_regular() {
        return level.run(Project { x, weight, rows, out });
    }
    match x.len() {
        0 => {}
        1 => level.run(Few::<1> { x, weight, first: rows.start, out }),
        2 => level.run(Few::<2> { x, weight, first: rows.start, out }),
        3 => level.run(Few::<3> { x, weight, first: rows.start, out }),
        _ => level.run(Few::<FEW> { x, weight, first: rows.start, out }),
    }
}

/// A kernel for each number of rows: as branches of one they would take each other's registers.
struct Few<'a, 'b, const M: usize> {
    x: &'a Rows<'b>,
    weight: &'a Matrix<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl<const M: usize> Kernel for Few<'_, '_, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut rows = [&[] as Lanes<'_>; M];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = self.x.row(i);
        }
        few_rows(s, rows, self.weight, self.first, self.out);
    }
}

struct Project<'a, 'b> {
    x: &'a Rows<'b>,
    weight: &'a Matrix<'a>,
    rows: Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for Project<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, weight, rows, out } = self;
        // Few tokens: four rows at a time, so that memory is read in order. Many: a panel in L2, reused by all of them.
        let step = if x.len() <= 2 * TILE_ROWS { 4 } else { PANEL_ROWS };
        let width = rows.len();
        let mut panel = Scratch::zeroed(step * DEPTH.min(weight.cols.next_multiple_of(LANES)));
        for first in (0..width).step_by(step) {
            let count = step.min(width - first);
            for start in (0..weight.cols).step_by(DEPTH) {
                let depth = DEPTH.min(weight.cols - start);
                let padded_depth = depth.next_multiple_of(LANES);
                for (i, row) in panel.chunks_exact_mut(padded_depth).take(count).enumerate() {
                    row[depth..].fill(0.0);
                    let from = rows.start + first + i;
                    // What will be decoded next: of few rows the same columns further down, of many the columns beyond.
                    let (below, beyond) = if step == 4 { (4, 0) } else { (0, DEPTH) };
                    weight.prefetch(s, from + below, start + beyond, depth);
                    weight.decode(s, from, start, &mut row[..depth]);
                }
                let columns = start / LANES..(start + padded_depth) / LANES;
                let panel = Panel { rows: panel.as_chunks().0, count, start, first };
                multiply(s, x, &panel, columns, width, out);
            }
        }
    }
}

/// Decoded weight rows of one block of `k`.
struct Panel<'a> {
    rows: Lanes<'a>,
    count: usize,
    start: usize,
    first: usize,
}

impl Panel<'_> {
    /// Four rows from `n`; past the end the last one repeats.
    #[inline(always)]
    fn four(&self, n: usize, depth: usize) -> [Lanes<'_>; 4] {
        let mut rows = [self.rows; 4];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = &self.rows[(n + i).min(self.count - 1) * depth..][..depth];
        }
        rows
    }
}

#[inline(always)]
fn multiply<S: Simd>(
    s: S,
    x: &Rows<'_>,
    panel: &Panel<'_>,
    columns: Range<usize>,
    width: usize,
    out: &mut [f32],
) {
    // Tiles of nearly equal height: 8 tokens are 4 + 4, not 6 + 2.
    let tiles = x.len().div_ceil(TILE_ROWS);
    for tile in 0..tiles {
        let t = tile * x.len() / tiles;
        let height = (tile + 1) * x.len() / tiles - t;
        let out = &mut out[t * width..];
        match height {
            1 => tile_row::<S, 1>(s, x, t, panel, columns.clone(), width, out),
            2 => tile_row::<S, 2>(s, x, t, panel, columns.clone(), width, out),
            3 => tile_row::<S, 3>(s, x, t, panel, columns.clone(), width, out),
            4 => tile_row::<S, 4>(s, x, t, panel, columns.clone(), width, out),
            5 => tile_row::<S, 5>(s, x, t, panel, columns.clone(), width, out),
            _ => tile_row::<S, 6>(s, x, t, panel, columns.clone(), width, out),
        }
    }
}

/// `M` tokens from `t` against the whole panel.
#[inline(always)]
fn tile_row<S: Simd, const M: usize>(
    s: S,
    x: &Rows<'_>,
    t: usize,
    panel: &Panel<'_>,
    columns: Range<usize>,
    width: usize,
    out: &mut [f32],
) {
    let mut rows = [&[] as Lanes<'_>; M];
    for (m, row) in rows.iter_mut().enumerate() {
        *row = &x.row(t + m)[columns.clone()];
    }
    for n in (0..panel.count).step_by(4) {
        let sums = dots(s, rows, panel.four(n, columns.len()));
        let kept = (panel.count - n).min(4);
        for (m, sums) in sums.iter().enumerate() {
            let out = &mut out[m * width + panel.first + n..][..kept];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if panel.start == 0 { *sum } else { *out + sum };
            }
        }
    }
}

/// `out = x W^T + bias`, `x` `[T, K]`, `out` `[T, N]`.
pub fn linear(level: Level, x: &[f32], weight: &Weight, bias: Option<&[f32]>, out: &mut [f32]) {
    let weight = Matrix::new(weight, 0);
    let width = weight.rows;
    if weight.cols == 0 {
        out.chunks_exact_mut(width.max(1))
            .for_each(|out| out.copy_from_slice(bias.unwrap_or(&vec![0.0; width])));
        return;
    }
    let x = Rows::dense(x, weight.cols);
    let size = block_size(width, 8, PANEL_ROWS);
    let work = weight.work(x.len());
    let target = Disjoint::new(out);
    for_each(width.div_ceil(size), work, |index| {
        let rows = block(index, size, width);
        if x.len() == 1 {
            // SAFETY: tasks have different blocks of the only row.
            let out = unsafe { target.part(rows.start, rows.len()) };
            project(level, &x, &weight, rows.clone(), out);
            if let Some(bias) = bias {
                out.iter_mut().zip(&bias[rows]).for_each(|(out, b)| *out += b);
            }
            return;
        }
        let mut local = vec![0.0; x.len() * rows.len()];
        project(level, &x, &weight, rows.clone(), &mut local);
        for (t, values) in local.chunks_exact(rows.len()).enumerate() {
            // SAFETY: tasks have different columns of each row.
            let out = unsafe { target.part(t * width + rows.start, rows.len()) };
            match bias {
                Some(bias) => {
                    for ((out, v), b) in out.iter_mut().zip(values).zip(&bias[rows.clone()]) {
                        *out = v + b;
                    }
                }
                None => out.copy_from_slice(values),
            }
        }
    });
}

/// `out = silu(x G^T) * (x U^T)`, `x` `[T, K]`, `out` `[T, I]`; gates are at most `limit`, and what they multiply stays within
/// it.
pub fn swiglu(level: Level, x: &[f32], gate: &Weight, up: &Weight, limit: f32, out: &mut [f32]) {
    let (gate, up) = (Matrix::new(gate, 0), Matrix::new(up, 0));
    let width = gate.rows;
    let x = Rows::dense(x, gate.cols);
    let size = block_size(width, 8, PANEL_ROWS);
    let target = Disjoint::new(out);
    for_each(width.div_ceil(size), 2 * gate.work(x.len()), |index| {
        let rows = block(index, size, width);
        let hidden = gated(level, &x, &gate, &up, limit, rows.clone());
        for (t, values) in hidden.chunks_exact(rows.len()).enumerate() {
            // SAFETY: tasks have different columns of each row.
            unsafe { target.part(t * width + rows.start, rows.len()) }.copy_from_slice(values);
        }
    });
}

/// The block `rows` of `silu(x G^T) * (x U^T)`, `[T, rows.len()]`.
pub(super) fn gated(
    level: Level,
    x: &Rows<'_>,
    gate: &Matrix<'_>,
    up: &Matrix<'_>,
    limit: f32,
    rows: Range<usize>,
) -> Vec<f32> {
    let size = x.len() * rows.len();
    let (mut hidden, mut linear) = (vec![0.0; size], vec![0.0; size]);
    project(level, x, gate, rows.clone(), &mut hidden);
    project(level, x, up, rows, &mut linear);
    level.run(SiluMul { gate: &mut hidden, up: &linear, limit });
    hidden
}

/// `gate = silu(min(gate, limit)) * clamp(up, -limit, limit)`; an infinite limit clamps nothing.
struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
    limit: f32,
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (low, high) = (s.splat(-self.limit), s.splat(self.limit));
        let (gates, gate_tail) = self.gate.as_chunks_mut::<LANES>();
        let (ups, up_tail) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            // A NaN is the second operand, which the comparisons hand on.
            let clamped = s.max(low, s.min(high, s.load(up)));
            s.store(s.mul(silu(s, s.min(high, s.load(gate))), clamped), gate);
        }
        let mut lanes = padded(gate_tail);
        let clamped = s.max(low, s.min(high, s.load(&padded(up_tail))));
        s.store(s.mul(silu(s, s.min(high, s.load(&lanes))), clamped), &mut lanes);
        gate_tail.copy_from_slice(&lanes[..gate_tail.len()]);
    }
}
