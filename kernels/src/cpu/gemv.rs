//! One activation row against packed weight rows, decoded in registers: the memory-bound half of decode.

use std::ops::Range;

use super::matmul::DEPTH;
use super::packed::{Data, Element, Matrix, Scales, padded};
use super::simd::{LANES, Simd};
use super::tile::Lanes;

/// Rows that share a pass over `x`: enough accumulators to hide the latency of a multiply-add.
const ROWS: usize = 8;

/// Vectors between two requests for memory ahead.
const RUN: usize = 8;

/// `out[i] = x . weight[first + i]`, `x` filled up with zeros to whole vectors.
///
/// The order of additions is that of the tiles in [`super::matmul`], so the results are the same bits.
#[inline(always)]
pub(super) fn gemv<S: Simd>(s: S, x: Lanes<'_>, weight: &Matrix<'_>, first: usize, out: &mut [f32]) {
    match weight.data {
        Data::F32(values) => typed(s, x, (values, None), weight.cols, first, out),
        Data::F16(values) => typed(s, x, (values, None), weight.cols, first, out),
        Data::Bf16(values) => typed(s, x, (values, None), weight.cols, first, out),
        Data::F8(values, scales) => typed(s, x, (values, Some(scales)), weight.cols, first, out),
        Data::I8(values, scales) => typed(s, x, (values, Some(scales)), weight.cols, first, out),
        Data::Four(_) | Data::Ggml(_) => unreachable!("not regular: see Matrix::is_regular"),
    }
}

#[inline(always)]
fn typed<S: Simd, E: Element>(
    s: S,
    x: Lanes<'_>,
    (values, scales): (&[E], Option<Scales<'_>>),
    cols: usize,
    first: usize,
    out: &mut [f32],
) {
    let (groups, rest) = out.as_chunks_mut::<ROWS>();
    let mut row = first;
    for group in groups {
        let mut rows = [&values[..0]; ROWS];
        for n in 0..ROWS {
            rows[n] = &values[(row + n) * cols..][..cols];
        }
        *group = dot_rows(s, x, rows, scales, row);
        row += ROWS;
    }
    for out in rest {
        [*out] = dot_rows(s, x, [&values[row * cols..][..cols]], scales, row);
        row += 1;
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
fn dot_rows<S: Simd, E: Element, const N: usize>(
    s: S,
    x: Lanes<'_>,
    rows: [&[E]; N],
    scales: Option<Scales<'_>>,
    first: usize,
) -> [f32; N] {
    let mut group = Group { rows, scales: [&[]; N], run: RUN };
    if let Some(scales) = scales {
        group.run = scales.block_cols / LANES;
        for n in 0..N {
            group.scales[n] = scales.row(first + n);
        }
    }
    let cols = rows[0].len();
    let mut total = [0.0; N];
    for start in (0..cols).step_by(DEPTH) {
        let end = (start + DEPTH).min(cols);
        let mut acc = [s.splat(0.0); N];
        dot_block(s, x, &group, start / LANES..end / LANES, &mut acc);
        if !end.is_multiple_of(LANES) {
            let x = s.load(&x[end / LANES]);
            for n in 0..N {
                let value = E::load(s, &padded(&rows[n][end / LANES * LANES..]));
                let scale = if E::SCALED { group.scales[n][end / LANES / group.run] * E::UNIT } else { 1.0 };
                let value = if E::SCALED { s.mul(value, s.splat(scale)) } else { value };
                acc[n] = s.mul_add(x, value, acc[n]);
            }
        }
        for n in 0..N {
            let mut sum = s.sum(acc[n]);
            // A NaN weight makes the whole dot product NaN, whatever it meets.
            if E::has_nan(s, &rows[n][start..end]) {
                sum = f32::NAN;
            }
            total[n] = if start == 0 { sum } else { total[n] + sum };
        }
    }
    total
}

/// The whole vectors `columns` of one block of `k`.
#[inline(always)]
fn dot_block<S: Simd, E: Element, const N: usize>(
    s: S,
    x: Lanes<'_>,
    group: &Group<'_, E, N>,
    columns: Range<usize>,
    acc: &mut [S::V; N],
) {
    let x = &x[..columns.end];
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
            // SAFETY: `x` and every row have `columns.end` vectors, and `end` is not above it.
            let x = s.load(unsafe { x.get_unchecked(k) });
            for n in 0..N {
                // SAFETY: as above.
                let value = E::load(s, unsafe { rows[n].get_unchecked(k) });
                let value = if E::SCALED { s.mul(value, factors[n]) } else { value };
                sums[n] = s.mul_add(x, value, sums[n]);
            }
        }
        (start, block) = (end, block + 1);
    }
    *acc = sums;
}
