//! One activation row against packed weight rows, decoded in registers: the memory-bound half of decode.

use super::matmul::DEPTH;
use super::packed::{Data, E4M3_UNIT, Element, Matrix, Scales, padded};
use super::simd::{LANES, Simd};
use super::tile::Lanes;

/// Rows that share a pass over `x`: enough accumulators to hide the latency of a multiply-add.
const ROWS: usize = 8;

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

#[inline(always)]
fn dot_rows<S: Simd, E: Element, const N: usize>(
    s: S,
    x: Lanes<'_>,
    rows: [&[E]; N],
    scales: Option<Scales<'_>>,
    first: usize,
) -> [f32; N] {
    let cols = rows[0].len();
    let mut total = [0.0; N];
    let mut start = 0;
    while start < cols {
        let end = (start + DEPTH).min(cols);
        let mut acc = [s.splat(0.0); N];
        let mut at = start;
        while at < end {
            let block = scales.map_or(DEPTH, |s| s.block_cols);
            let stop = (at - at % block + block).min(end);
            let mut run = rows;
            let mut factors = [s.splat(1.0); N];
            for n in 0..N {
                run[n] = &rows[n][at..stop];
                if let Some(scales) = scales {
                    factors[n] = s.splat(scales.at(first + n, at) * E4M3_UNIT);
                }
            }
            dot_run(s, &x[at / LANES..], run, factors, &mut acc);
            at = stop;
        }
        for n in 0..N {
            total[n] = if start == 0 { s.sum(acc[n]) } else { total[n] + s.sum(acc[n]) };
        }
        start = end;
    }
    total
}

/// One run of columns under one scale per row.
#[inline(always)]
fn dot_run<S: Simd, E: Element, const N: usize>(
    s: S,
    x: Lanes<'_>,
    rows: [&[E]; N],
    factors: [S::V; N],
    acc: &mut [S::V; N],
) {
    let count = rows[0].len() / LANES;
    let mut chunks = [&[] as &[[E; LANES]]; N];
    for n in 0..N {
        chunks[n] = &rows[n].as_chunks::<LANES>().0[..count];
    }
    let mut sums = *acc;
    for (k, x) in x[..count].iter().enumerate() {
        let x = s.load(x);
        for n in 0..N {
            // SAFETY: every row of `chunks` has `count` entries, and so has the part of `x`.
            let value = E::load(s, unsafe { chunks[n].get_unchecked(k) });
            let value = if E::SCALED { s.mul(value, factors[n]) } else { value };
            sums[n] = s.mul_add(x, value, sums[n]);
        }
    }
    if count * LANES < rows[0].len() {
        let x = s.load(&x[count]);
        for n in 0..N {
            let value = E::load(s, &padded(&rows[n][count * LANES..]));
            let value = if E::SCALED { s.mul(value, factors[n]) } else { value };
            sums[n] = s.mul_add(x, value, sums[n]);
        }
    }
    if E::SCALED {
        for n in 0..N {
            // A NaN weight makes the whole dot product NaN, whatever it meets.
            if s.has_e4m3_nan(bytemuck::cast_slice(rows[n])) {
                sums[n] = s.splat(f32::NAN);
            }
        }
    }
    *acc = sums;
}
