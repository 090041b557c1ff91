//! References of the released treatment of index vectors: the rotation as a matrix, the rounding by search.

use crate::{e2m1_to_f32, e4m3_to_f32};

/// `row` times the Walsh-Hadamard matrix over the root of its length: entry `(i, j)` is negative where `i & j` has an odd
/// number of bits.
pub fn hadamard(row: &[f32]) -> Vec<f32> {
    let norm = 1.0 / (row.len() as f32).sqrt();
    let sign = |i: usize, j: usize| if (i & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
    let column = |j: usize| row.iter().enumerate().map(|(i, v)| v * sign(i, j)).sum::<f32>() * norm;
    (0..row.len()).map(column).collect()
}

/// `row` over its scale, each value the nearest of e4m3 (of two, the one with an even code), and the scale
/// `2^ceil(log2(max(amax, 1e-4) / 448))`.
pub fn fp8_power_of_two(row: &[f32]) -> (Vec<f32>, f32) {
    let most = row.iter().fold(1e-4_f64, |most, v| most.max(f64::from(v.abs())));
    let scale = (most / 448.0).log2().ceil().exp2();
    let nearest = |v: &f32| {
        let distance = |code: &u8| (f64::from(e4m3_to_f32(*code)) - f64::from(*v) / scale).abs();
        let order = |a: &u8, b: &u8| distance(a).total_cmp(&distance(b)).then((a % 2).cmp(&(b % 2)));
        let codes = (0..=u8::MAX).filter(|code| code % 128 != 127);
        codes.min_by(order).map_or(f32::NAN, e4m3_to_f32)
    };
    (row.iter().map(nearest).collect(), scale as f32)
}

/// `row` as FP4 gives it back: every 32 values the nearest of e2m1 (of two, the one with an even code) times a scale of
/// their own, `2^ceil(log2(max(amax, 6 * 2^-126) / 6))`.
pub fn fp4_power_of_two(row: &[f32]) -> Vec<f32> {
    let group = |values: &[f32]| {
        let most =
            values.iter().fold(6.0 * f64::from(f32::MIN_POSITIVE), |most, v| most.max(f64::from(v.abs())));
        let scale = (most / 6.0).log2().ceil().exp2();
        let nearest = |v: &f32| {
            let distance = |code: &u8| (f64::from(e2m1_to_f32(*code)) - f64::from(*v) / scale).abs();
            let order = |a: &u8, b: &u8| distance(a).total_cmp(&distance(b)).then((a % 2).cmp(&(b % 2)));
            (0..16).min_by(order).map_or(f32::NAN, |code| (f64::from(e2m1_to_f32(code)) * scale) as f32)
        };
        values.iter().map(nearest).collect::<Vec<_>>()
    };
    row.chunks(32).flat_map(group).collect()
}
