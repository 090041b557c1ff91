//! The row that is key and value of all heads: norm, rope and rounding in one pass.

use super::kv_write::{CacheMut, store};
use super::level::Level;
use super::rows::{Norm, Rotate};
use crate::RopeLayout;

/// `rms_norm(kv)` with its last columns rotated, row by row of `kv` `[T, D]`, to the rows of `out`.
pub fn shared_kv(
    level: Level,
    out: &mut CacheMut<'_>,
    kv: &[f32],
    (weight, eps): (&[f32], f32),
    (cos, sin): (&[f32], &[f32]),
) {
    let dim = weight.len();
    let tokens = kv.len().checked_div(dim).unwrap_or(0);
    let half = cos.len().checked_div(tokens).unwrap_or(0);
    let mut row = vec![0.0; dim];
    for t in 0..tokens {
        let angles = (&cos[t * half..][..half], &sin[t * half..][..half]);
        norm_and_rotate(level, &kv[t * dim..][..dim], (weight, eps), angles, &mut row);
        store(level, out, t * dim, &row);
    }
}

/// `rms_norm(x)` with its last columns rotated, interleaved pairs.
pub(super) fn norm_and_rotate(
    level: Level,
    x: &[f32],
    (weight, eps): (&[f32], f32),
    angles: (&[f32], &[f32]),
    row: &mut [f32],
) {
    level.run(Norm { x, weight, eps, out: row });
    let nope = row.len() - 2 * angles.0.len();
    level.run(Rotate { x: &mut row[nope..], angles, layout: RopeLayout::Interleaved });
}
