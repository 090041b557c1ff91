//! A few activation rows against packed weight rows, decoded in registers: the memory-bound half of decode, of one stream, a
//! few, or one with guesses to check. Each weight is read and decoded once for all of them.

use std::ops::Range;

use super::matmul::DEPTH;
use super::packed::{Data, Element, Matrix, Scales, padded};
use super::simd::{LANES, Simd};
use super::tile::Lanes;

/// Most activation rows that take this way.
pub(super) const FEW: usize = 4;

/// Vectors between two requests for memory ahead.
const RUN: usize = 8;

/// `out[m, i] = x[m] . weight[first + i]`, `out` `[M, width]`, every `x` filled up with zeros to whole vectors.
///
/// The order of additions is that of the tiles in [`super::matmul`], so the results are the same bits.
#[inline(always)]
pub(super) fn few_rows<S: Simd, const M: usize>(
    s: S,
    x: [Lanes<'_>; M],
    weight: &Matrix<'_>,
    first: usize,
    out: &mut [f32],
) {
    match weight.data {
        Data::F32(values) => typed(s, x, (values, None), weight.cols, first, out),
        Data::F16(values) => typed(s, x, (values, None), weight.cols, first, out),
        Data::Bf16(values) => typed(s, x, (values, None), weight.cols, first, out),
        Data::F8(values, scales) => typed(s, x, (values, Some(scales)), weight.cols, first, out),
        Data::I8(values, scales) => typed(s, x, (values, Some(scales)), weight.cols, first, out),
        Data::Four(_) | Data::Ggml(_) => unreachable!("not regular: see Matrix::is_regular"),
    }
}

/// Weight rows share a pass over `x`: as many as there are registers for their sums, which also hides the latency of a
/// multiply-add.
#[inline(always)]
fn typed<S: Simd, E: Element, const M: usize>(
    s: S,
    x: [Lanes<'_>; M],
    weight: (&[E], Option<Scales<'_>>),
    cols: usize,
    first: usize,
    out: &mut [f32],
) {
    match M {
        1 => grouped::<S, E, M, 8>(s, x, weight, cols, first, out),
        2 | 3 if S::WIDE => grouped::<S, E, M, 8>(s, x, weight, cols, first, out),
        4 if S::WIDE => grouped::<S, E, M, 4>(s, x, weight, cols, first, out),
        _ => grouped::<S, E, M, 2>(s, x, weight, cols, first, out),
    }
}

#[inline(always)]
fn grouped<S: Simd, E: Element, const M: usize, const N: usize>(
    s: S,
    x: [Lanes<'_>; M],
    (values, scales): (&[E], Option<Scales<'_>>),
    cols: usize,
    first: usize,
    out: &mut [f32],
) {
    let width = out.len() / M;
    let whole = width / N * N;
    for at in (0..whole).step_by(N) {
        let mut rows = [&values[..0]; N];
        for n in 0..N {
            rows[n] = &values[(first + at + n) * cols..][..cols];
        }
        let dots = dot_rows(s, x, rows, scales, first + at);
        for m in 0..M {
            out[m * width + at..][..N].copy_from_slice(&dots[m]);
        }
    }
    for at in whole..width {
        let dots = dot_rows(s, x, [&values[(first + at) * cols..][..cols]], scales, first + at);
        for m in 0..M {
            out[m * width + at] = dots[m][0];
        }
    }
}

/// Rows of one matrix under the same walk.
struct Group<'a, E, const N: usize> {
    rows: [&'a [E]; N],
    scales: [&'a [f32]; N],
    /// Vectors of columns under one scale; without scales the step at which memory is asked for ahead.
    run: usize,
}

#[inline(always)]
fn dot_rows<S: Simd, E: Element, const M: usize, const N: usize>(
    s: S,
    x: [Lanes<'_>; M],
    rows: [&[E]; N],
    scales: Option<Scales<'_>>,
    first: usize,
) -> [[f32; N]; M] {
    let mut group = Group { rows, scales: [&[]; N], run: RUN };
    if let Some(scales) = scales {
        group.run = scales.block_cols / LANES;
        for n in 0..N {
            group.scales[n] = scales.row(first + n);
        }
    }
    let cols = rows[0].len();
    let mut total = [[0.0; N]; M];
    for start in (0..cols).step_by(DEPTH) {
        let end = (start + DEPTH).min(cols);
        let mut acc = [[s.splat(0.0); N]; M];
        dot_block(s, x, &group, start / LANES..end / LANES, &mut acc);
        if !end.is_multiple_of(LANES) {
            for n in 0..N {
                let value = E::load(s, &padded(&rows[n][end / LANES * LANES..]));
                let scale = if E::SCALED { group.scales[n][end / LANES / group.run] * E::UNIT } else { 1.0 };
                let value = if E::SCALED { s.mul(value, s.splat(scale)) } else { value };
                for m in 0..M {
                    acc[m][n] = s.mul_add(s.load(&x[m][end / LANES]), value, acc[m][n]);
                }
            }
        }
        for n in 0..N {
            // A NaN weight makes the whole dot product NaN, whatever it meets.
            let has_nan = E::has_nan(s, &rows[n][start..end]);
            for m in 0..M {
                let sum = if has_nan { f32::NAN } else { s.sum(acc[m][n]) };
                total[m][n] = if start == 0 { sum } else { total[m][n] + sum };
            }
        }
    }
    total
}

/// The whole vectors `columns` of one block of `k`.
#[inline(always)]
fn dot_block<S: Simd, E: Element, const M: usize, const N: usize>(
    s: S,
    x: [Lanes<'_>; M],
    group: &Group<'_, E, N>,
    columns: Range<usize>,
    acc: &mut [[S::V; N]; M],
) {
    let x = x.map(|x| &x[..columns.end]);
    let mut rows = [&[] as &[[E; LANES]]; N];
    for n in 0..N {
        rows[n] = &group.rows[n].as_chunks::<LANES>().0[..columns.end];
    }
    let mut sums = *acc;
    let (mut start, mut block) = (columns.start, columns.start / group.run);
    while start < columns.end {
        let end = ((block + 1) * group.run).min(columns.end);
        let mut factors = [s.splat(1.0); N];
        for n in 0..N {
            if E::SCALED {
                factors[n] = s.splat(group.scales[n][block] * E::UNIT);
            }
            // The same columns of the next group of rows: the hardware does not see that far.
            s.prefetch(&rows[n][start..end], N * size_of_val(group.rows[n]));
        }
        for k in start..end {
            let mut lanes = [s.splat(0.0); M];
            for m in 0..M {
                // SAFETY: every `x` and every row have `columns.end` vectors, and `end` is not above it.
                lanes[m] = s.load(unsafe { x[m].get_unchecked(k) });
            }
            for n in 0..N {
                // SAFETY: as above.
                let value = E::load(s, unsafe { rows[n].get_unchecked(k) });
                let value = if E::SCALED { s.mul(value, factors[n]) } else { value };
                for m in 0..M {
                    sums[m][n] = s.mul_add(lanes[m], value, sums[m][n]);
                }
            }
        }
        (start, block) = (end, block + 1);
    }
    *acc = sums;
}
