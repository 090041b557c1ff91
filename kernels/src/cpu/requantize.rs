//! One matrix to INT8: rows decoded a block at a time, a scale from the largest magnitude, rounding, and the error.

use super::level::{Kernel, Level};
use super::packed::Matrix;
use super::parallel::{Disjoint, block, for_each};
use super::simd::{LANES, Simd};
use crate::Weight;
use crate::ops::QuantError;

/// How the scale of a block follows from its largest magnitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleRule {
    /// The largest magnitude becomes 127.
    Largest,
    /// The smallest power of two under which the largest magnitude is at most 127.
    PowerOfTwo,
}

impl ScaleRule {
    /// The scale for a block of `largest` magnitude; 0 for a block of zeros.
    fn scale(self, largest: f32) -> f32 {
        match self {
            Self::PowerOfTwo if largest > 0.0 && largest.is_finite() => {
                // Carried into the exponent unless the mantissa is zero, then cut off. In `f64`, where the quotient of
                // the smallest `f32` still has an exponent.
                let bits = (f64::from(largest) / 127.0).to_bits() + ((1 << 52) - 1);
                f64::from_bits(bits >> 52 << 52) as f32
            }
            _ => largest / 127.0,
        }
    }
}

/// Matrix `expert` of `weight` into `data` `[N, K]` and `scales`, one for each `block`. NaN and infinity come out as a
/// `relative_rms` that is not finite.
pub fn requantize(
    level: Level,
    (weight, expert): (&Weight, usize),
    [block_rows, block_cols]: [usize; 2],
    rule: ScaleRule,
    data: &mut [i8],
    scales: &mut [f32],
) -> QuantError {
    let matrix = Matrix::new(weight, expert);
    let (rows, cols) = (matrix.rows, matrix.cols);
    let per_row = cols.div_ceil(block_cols);
    // Added up in the order of the bands, so that the error does not depend on the number of cores.
    let mut totals = vec![Totals::default(); rows.div_ceil(block_rows)];
    let (data, scales, bands) = (Disjoint::new(data), Disjoint::new(scales), Disjoint::new(&mut totals));
    for_each(rows.div_ceil(block_rows), rows * cols, |index| {
        let band = block(index, block_rows, rows);
        // SAFETY: every task has its own band of rows, of scales and of totals.
        let (data, scales, total) = unsafe {
            let data = data.part(band.start * cols, band.len() * cols);
            (data, scales.part(index * per_row, per_row), bands.part(index, 1))
        };
        total[0] = level.run(Band { matrix: &matrix, first: band.start, block_cols, rule, data, scales });
    });
    Totals::finish(&totals)
}

/// Rows `first ..` that share their scales.
struct Band<'a> {
    matrix: &'a Matrix<'a>,
    first: usize,
    block_cols: usize,
    rule: ScaleRule,
    data: &'a mut [i8],
    scales: &'a mut [f32],
}

impl Kernel for Band<'_> {
    type Output = Totals;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Totals {
        let (cols, width) = (self.matrix.cols, self.block_cols);
        let mut values = vec![0.0; self.data.len()];
        let mut largest = vec![0.0_f32; self.scales.len()];
        for (i, row) in values.chunks_exact_mut(cols.max(1)).enumerate() {
            self.matrix.decode(s, self.first + i, 0, row);
            for (largest, part) in largest.iter_mut().zip(row.chunks(width)) {
                *largest = largest.max(max_abs(part));
            }
        }
        for (scale, largest) in self.scales.iter_mut().zip(&largest) {
            *scale = self.rule.scale(*largest);
        }
        let mut totals = Totals::default();
        for (row, data) in values.chunks_exact(cols.max(1)).zip(self.data.chunks_exact_mut(cols.max(1))) {
            let mut sums = Totals::default();
            for ((part, data), &scale) in row.chunks(width).zip(data.chunks_mut(width)).zip(&*self.scales) {
                round(part, scale, data);
                sums.add(part, scale, data);
            }
            totals.add_row(sums, max_abs(row));
        }
        totals
    }
}

/// The largest magnitude; NaN counts as nothing.
#[inline(always)]
fn max_abs(values: &[f32]) -> f32 {
    let (chunks, tail) = values.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = lanes[i].max(chunk[i].abs());
        }
    }
    lanes.iter().chain(tail).fold(0.0, |max, v| max.max(v.abs()))
}

/// The nearest integers within 127, ties to even. Under a scale of zero all values are, and 0 / 0 becomes 0.
#[inline(always)]
fn round(values: &[f32], scale: f32, out: &mut [i8]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
}

/// Sums from which a [`QuantError`] is made; in `f64`, since a matrix has tens of millions of elements.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    max_abs: f32,
    max_of_row: f32,
    inexact_rows: usize,
    squared_errors: f64,
    squares: f64,
}

impl Totals {
    /// Adds a run of elements under one scale.
    #[inline(always)]
    fn add(&mut self, values: &[f32], scale: f32, codes: &[i8]) {
        let (mut largest, mut errors, mut squares) = ([0.0_f32; LANES], [0.0_f64; LANES], [0.0_f64; LANES]);
        for (values, codes) in values.chunks(LANES).zip(codes.chunks(LANES)) {
            for (i, (&value, &code)) in values.iter().zip(codes).enumerate() {
                let error = (f32::from(code) * scale - value).abs();
                largest[i] = largest[i].max(error);
                errors[i] += f64::from(error) * f64::from(error);
                squares[i] += f64::from(value) * f64::from(value);
            }
        }
        self.max_abs = largest.iter().fold(self.max_abs, |max, v| max.max(*v));
        self.squared_errors += errors.iter().sum::<f64>();
        self.squares += squares.iter().sum::<f64>();
    }

    /// Adds the sums of a whole row of `largest` magnitude.
    fn add_row(&mut self, row: Self, largest: f32) {
        if row.max_abs > 0.0 {
            self.inexact_rows += 1;
            self.max_of_row = self.max_of_row.max(row.max_abs / largest);
        }
        self.max_abs = self.max_abs.max(row.max_abs);
        self.squared_errors += row.squared_errors;
        self.squares += row.squares;
    }

    fn finish(bands: &[Self]) -> QuantError {
        let (mut error, mut sums) = (QuantError::default(), [0.0; 2]);
        for band in bands {
            error.max_abs = error.max_abs.max(band.max_abs);
            error.max_of_row = error.max_of_row.max(band.max_of_row);
            error.inexact_rows += band.inexact_rows;
            sums = [sums[0] + band.squared_errors, sums[1] + band.squares];
        }
        if sums[1] != 0.0 {
            error.relative_rms = (sums[0] / sums[1]).sqrt() as f32;
        }
        error
    }
}
