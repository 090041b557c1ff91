//! Reference of re-quantisation to INT8 and of its error.

use crate::ops::QuantError;

/// Codes `[n, k]` and a scale per block of `weight` `[n, k]`: the scale is the largest magnitude over 127, or, of
/// `power_of_two`, the smallest power of two that is no smaller.
pub fn requantize_int8(
    weight: &[f32],
    [n, k]: [usize; 2],
    [block_rows, block_cols]: [usize; 2],
    power_of_two: bool,
) -> (Vec<i8>, Vec<f32>) {
    let (mut codes, mut scales) = (vec![0; n * k], Vec::new());
    for row in (0..n).step_by(block_rows) {
        for col in (0..k).step_by(block_cols) {
            let rows = row..(row + block_rows).min(n);
            let columns = col..(col + block_cols).min(k);
            let block: Vec<usize> = rows.flat_map(|r| columns.clone().map(move |c| r * k + c)).collect();
            let largest = block.iter().fold(0.0_f32, |max, &i| max.max(weight[i].abs()));
            let mut scale = largest / 127.0;
            if power_of_two && largest > 0.0 {
                scale =
                    (-149..128).map(|e| 2f64.powi(e) as f32).find(|p| largest <= 127.0 * p).unwrap_or(scale);
            }
            for i in block {
                codes[i] = if scale == 0.0 { 0 } else { (weight[i] / scale).round_ties_even() as i8 };
            }
            scales.push(scale);
        }
    }
    (codes, scales)
}

/// The distance of `kept` from `original`, both in rows of `k`.
pub fn quant_error(original: &[f32], kept: &[f32], k: usize) -> QuantError {
    let mut error = QuantError::default();
    let (mut errors, mut squares) = (0.0_f64, 0.0_f64);
    for (original, kept) in original.chunks_exact(k).zip(kept.chunks_exact(k)) {
        let distances: Vec<f32> = original.iter().zip(kept).map(|(a, b)| (a - b).abs()).collect();
        let worst = distances.iter().copied().fold(0.0, f32::max);
        let largest = original.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
        if worst > 0.0 {
            error.inexact_rows += 1;
            error.max_of_row = error.max_of_row.max(worst / largest);
        }
        error.max_abs = error.max_abs.max(worst);
        errors += distances.iter().map(|&d| f64::from(d).powi(2)).sum::<f64>();
        squares += original.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    }
    error.relative_rms = if squares == 0.0 { 0.0 } else { (errors / squares).sqrt() as f32 };
    error
}
