//! Reference of the packed row that is key and value at once: what it holds, without its bytes.

use half::bf16;

use super::fp8_power_of_two;

/// `row` as a cache of packed rows gives it back: all but the last `rope` channels rounded to e4m3 by 64s, each with a power
/// of two as scale, and those to bf16.
pub fn shared_kv_row(row: &[f32], rope: usize) -> Vec<f32> {
    let (channels, rotated) = row.split_at(row.len() - rope);
    let group = |values: &[f32]| {
        let (codes, scale) = fp8_power_of_two(values);
        codes.into_iter().map(move |code| code * scale)
    };
    let channels = channels.chunks(64).flat_map(group);
    channels.chain(rotated.iter().map(|v| bf16::from_f32(*v).to_f32())).collect()
}
