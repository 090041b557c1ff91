//! The register tiles: a block of dot products, and a block of sums of scaled rows.

use super::simd::{LANES, Simd};

/// Most rows of a tile.
pub(super) const TILE_ROWS: usize = 6;

/// A row in whole vectors.
pub(super) type Lanes<'a> = &'a [[f32; LANES]];

/// `x[m] . w[n]` for all `m` and `n`. Every pair has its own accumulator of sixteen lanes that walks along `k` in order,
/// so a pair's result does not depend on the tile around it.
#[inline(always)]
pub(super) fn dots<S: Simd, const M: usize>(s: S, x: [Lanes<'_>; M], w: [Lanes<'_>; 4]) -> [[f32; 4]; M] {
    if S::WIDE {
        return dots_wide(s, x, w);
    }
    // Half the registers: two columns at a time, and at most three rows.
    let mut out = [[0.0; 4]; M];
    for m in (0..M).step_by(3) {
        for pair in [0, 2] {
            let w = [w[pair], w[pair + 1]];
            let sums = match M - m {
                1 => [dot_pair(s, x[m], w), [0.0; 2], [0.0; 2]],
                2 => {
                    let [a, b] = dot_pairs(s, [x[m], x[m + 1]], w);
                    [a, b, [0.0; 2]]
                }
                _ => dot_pairs(s, [x[m], x[m + 1], x[m + 2]], w),
            };
            for (out, sums) in out[m..].iter_mut().zip(sums) {
                out[pair..pair + 2].copy_from_slice(&sums);
            }
        }
    }
    out
}

#[inline(always)]
fn dot_pair<S: Simd>(s: S, x: Lanes<'_>, w: [Lanes<'_>; 2]) -> [f32; 2] {
    let [sums] = dot_pairs(s, [x], w);
    sums
}

#[inline(always)]
fn dots_wide<S: Simd, const M: usize>(s: S, x: [Lanes<'_>; M], w: [Lanes<'_>; 4]) -> [[f32; 4]; M] {
    let acc = accumulate(s, x, w);
    let mut out = [[0.0; 4]; M];
    for m in 0..M {
        out[m] = s.sum4(acc[m]);
    }
    out
}

#[inline(always)]
fn dot_pairs<S: Simd, const M: usize>(s: S, x: [Lanes<'_>; M], w: [Lanes<'_>; 2]) -> [[f32; 2]; M] {
    let acc = accumulate(s, x, w);
    let mut out = [[0.0; 2]; M];
    for m in 0..M {
        out[m] = [s.sum(acc[m][0]), s.sum(acc[m][1])];
    }
    out
}

#[inline(always)]
fn accumulate<S: Simd, const M: usize, const N: usize>(
    s: S,
    x: [Lanes<'_>; M],
    w: [Lanes<'_>; N],
) -> [[S::V; N]; M] {
    let len = x[0].len();
    assert!(x.iter().chain(&w).all(|row| row.len() == len), "rows of one length");
    let mut acc = [[s.splat(0.0); N]; M];
    for k in 0..len {
        let mut columns = [s.splat(0.0); N];
        for n in 0..N {
            // SAFETY: every row has `len` vectors by the assertion above.
            columns[n] = s.load(unsafe { w[n].get_unchecked(k) });
        }
        for m in 0..M {
            // SAFETY: as above.
            let row = s.load(unsafe { x[m].get_unchecked(k) });
            for n in 0..N {
                acc[m][n] = s.mul_add(row, columns[n], acc[m][n]);
            }
        }
    }
    acc
}

/// `out[m] += sum_j p[m, j] * rows[j]` for `M` rows of `width` vectors, the order over `j` fixed.
///
/// Row `m` of `p` starts at `m * p_stride` and has `count` factors; row `j` of `rows` starts at vector `j * stride`.
#[inline(always)]
pub(super) fn add_scaled_rows<S: Simd, const M: usize>(
    s: S,
    p: (&[f32], usize, usize),
    rows: (Lanes<'_>, usize),
    (out, width): (&mut [[f32; LANES]], usize),
) {
    let step = if S::WIDE { 4 } else { 1 };
    let whole = width / step * step;
    for at in (0..whole).step_by(step) {
        if S::WIDE {
            add_columns::<S, M, 4>(s, p, rows, at, out, width);
        } else {
            add_columns::<S, M, 1>(s, p, rows, at, out, width);
        }
    }
    for at in whole..width {
        add_columns::<S, M, 1>(s, p, rows, at, out, width);
    }
}

/// [`add_scaled_rows`] on `N` vectors of columns from `at`.
#[inline(always)]
fn add_columns<S: Simd, const M: usize, const N: usize>(
    s: S,
    (p, p_stride, count): (&[f32], usize, usize),
    (rows, stride): (Lanes<'_>, usize),
    at: usize,
    out: &mut [[f32; LANES]],
    width: usize,
) {
    let mut factors = [p; M];
    let mut acc = [[s.splat(0.0); N]; M];
    for m in 0..M {
        factors[m] = &p[m * p_stride..][..count];
        for n in 0..N {
            acc[m][n] = s.load(&out[m * width + at + n]);
        }
    }
    for j in 0..count {
        let vectors = &rows[j * stride + at..][..N];
        let mut row = [s.splat(0.0); N];
        for n in 0..N {
            row[n] = s.load(&vectors[n]);
        }
        for m in 0..M {
            // SAFETY: every row of `factors` has `count` entries.
            let factor = s.splat(unsafe { *factors[m].get_unchecked(j) });
            for n in 0..N {
                acc[m][n] = s.mul_add(factor, row[n], acc[m][n]);
            }
        }
    }
    for m in 0..M {
        for n in 0..N {
            s.store(acc[m][n], &mut out[m * width + at + n]);
        }
    }
}
