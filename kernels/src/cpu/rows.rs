//! Row-wise ops: embedding rows, RMS norm with its fused residual add, rotary embedding.

use std::ops::Range;

use super::level::{Kernel, Level};
use super::packed::{Matrix, padded};
use super::parallel::{Disjoint, for_each};
use super::simd::{LANES, Simd};
use crate::{RopeLayout, Weight};

/// Rows `ids` of a token table into `out` `[T, D]`; `table` begins with row `first`, and a row beyond it is zeros.
pub fn embedding(level: Level, table: &Weight, ids: &[u32], first: usize, out: &mut [f32]) {
    let table = Matrix::new(table, 0);
    let (dim, work) = (table.cols, out.len());
    let target = Disjoint::new(out);
    for_each(ids.len(), work, |t| {
        // SAFETY: every task has its own row.
        let out = unsafe { target.part(t * dim, dim) };
        match (ids[t] as usize).checked_sub(first).filter(|&row| row < table.rows) {
            Some(row) => level.run(DecodeRow { table: &table, row, out }),
            None => out.fill(0.0),
        }
    });
}

struct DecodeRow<'a> {
    table: &'a Matrix<'a>,
    row: usize,
    out: &'a mut [f32],
}

impl Kernel for DecodeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.table.decode(s, self.row, 0, self.out);
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` per row.
pub fn rms_norm(level: Level, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let dim = weight.len();
    let work = out.len();
    let target = Disjoint::new(out);
    for_each(x.len().checked_div(dim).unwrap_or(0), work, |t| {
        // SAFETY: every task has its own row.
        let out = unsafe { target.part(t * dim, dim) };
        level.run(Norm { x: &x[t * dim..][..dim], weight, eps, out });
    });
}

/// `residual += x`, then `out` is the norm of the sum, row by row while it is in the cache.
pub fn add_rms_norm(
    level: Level,
    residual: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let dim = weight.len();
    let work = out.len();
    let (target, sums) = (Disjoint::new(out), Disjoint::new(residual));
    for_each(x.len().checked_div(dim).unwrap_or(0), work, |t| {
        let row = t * dim..(t + 1) * dim;
        // SAFETY: every task has its own row of both.
        let (out, sum) = unsafe { (target.part(t * dim, dim), sums.part(t * dim, dim)) };
        sum.iter_mut().zip(&x[row]).for_each(|(sum, x)| *sum += x);
        level.run(Norm { x: sum, weight, eps, out });
    });
}

/// One row of RMS norm.
pub(super) struct Norm<'a> {
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) eps: f32,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, weight, eps, out } = self;
        let (chunks, tail) = x.as_chunks::<LANES>();
        let last = s.load(&padded(tail));
        let scale = s.splat(1.0 / (mean_square(s, x) + eps).sqrt());
        let (weights, weight_tail) = weight.as_chunks::<LANES>();
        let (outs, out_tail) = out.as_chunks_mut::<LANES>();
        for ((out, chunk), weight) in outs.iter_mut().zip(chunks).zip(weights) {
            s.store(s.mul(s.mul(s.load(chunk), scale), s.load(weight)), out);
        }
        let mut lanes = [0.0; LANES];
        s.store(s.mul(s.mul(last, scale), s.load(&padded(weight_tail))), &mut lanes);
        out_tail.copy_from_slice(&lanes[..tail.len()]);
    }
}

/// The mean of the squares of a row.
#[inline(always)]
pub(super) fn mean_square<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let last = s.load(&padded(tail));
    let mut squares = [s.mul(last, last), s.splat(0.0)];
    for (i, chunk) in chunks.iter().enumerate() {
        let x = s.load(chunk);
        // Two chains hide the latency of the addition.
        squares[i % 2] = s.mul_add(x, x, squares[i % 2]);
    }
    s.sum(s.add(squares[0], squares[1])) / x.len() as f32
}

/// `x / sqrt(mean(x^2) + eps)` of every `dim` values, in place.
pub fn head_norm(level: Level, x: &mut [f32], dim: usize, eps: f32) {
    let (work, heads) = (x.len(), x.len().checked_div(dim).unwrap_or(0));
    let target = Disjoint::new(x);
    for_each(heads, work, |h| {
        // SAFETY: every task has its own head.
        level.run(HeadNorm { x: unsafe { target.part(h * dim, dim) }, eps });
    });
}

struct HeadNorm<'a> {
    x: &'a mut [f32],
    eps: f32,
}

impl Kernel for HeadNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = 1.0 / (mean_square(s, self.x) + self.eps).sqrt();
        self.x.iter_mut().for_each(|v| *v *= scale);
    }
}

/// Rotates columns `columns` of every head of `x` `[T, H, D]`; `cos` and `sin` are `[T, columns.len() / 2]`.
pub fn rope(
    level: Level,
    x: &mut [f32],
    (heads, dim): (usize, usize),
    columns: Range<usize>,
    (cos, sin): (&[f32], &[f32]),
    layout: RopeLayout,
) {
    let half = columns.len() / 2;
    let work = cos.len() * heads;
    let row = heads * dim;
    let target = Disjoint::new(x);
    for_each(cos.len().checked_div(half).unwrap_or(0), work, |t| {
        // SAFETY: every task has its own token.
        let heads = unsafe { target.part(t * row, row) };
        let angles = (&cos[t * half..][..half], &sin[t * half..][..half]);
        for head in heads.chunks_exact_mut(dim) {
            level.run(Rotate { x: &mut head[columns.clone()], angles, layout });
        }
    });
}

/// One rotated vector of `2 * angles.len()` channels.
pub(super) struct Rotate<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) angles: (&'a [f32], &'a [f32]),
    pub(super) layout: RopeLayout,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    // Plain loops over equally long slices: the compiler vectorises them for the level they are inlined into.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (cos, sin) = self.angles;
        match self.layout {
            RopeLayout::Interleaved => {
                for ((pair, cos), sin) in self.x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                    let [even, odd] = *pair;
                    *pair = [even * cos - odd * sin, odd * cos + even * sin];
                }
            }
            RopeLayout::HalfSplit => {
                let (left, right) = self.x.split_at_mut(cos.len());
                for (((left, right), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    let (even, odd) = (*left, *right);
                    *left = even * cos - odd * sin;
                    *right = odd * cos + even * sin;
                }
            }
        }
    }
}
