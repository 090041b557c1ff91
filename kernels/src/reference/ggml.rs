//! One column at a time out of a block of ggml: plain index arithmetic after `dequantize_row_*` of llama.cpp's
//! `ggml-quants.c`.

use half::f16;

use crate::{GgmlType, e2m1_to_f32, e8m0_to_f32};

/// Steps of IQ4_NL and IQ4_XS.
const STEPS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// The values of all columns of `blocks`.
pub fn decode_ggml(kind: GgmlType, blocks: &[u8]) -> Vec<f32> {
    let columns = |block| (0..kind.block_len()).map(move |i| column(kind, block, i));
    blocks.chunks_exact(kind.block_bytes()).flat_map(columns).collect()
}

/// Column `i` of one block.
fn column(kind: GgmlType, block: &[u8], i: usize) -> f32 {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    // The 4-bit forms of 32: low halves are columns 0 to 15, high halves 16 to 31.
    let nibble = |at: usize, i: usize| u32::from(block[at + i % 16] >> (4 * (i / 16)) & 15);
    let bit = |at: usize, i: usize| u32::from(block[at + i / 8] >> (i % 8) & 1);
    match kind {
        GgmlType::Q4_0 => half(0) * (nibble(2, i) as f32 - 8.0),
        GgmlType::Q4_1 => half(0) * nibble(4, i) as f32 + half(2),
        GgmlType::Q5_0 => half(0) * ((nibble(6, i) + 16 * bit(2, i)) as f32 - 16.0),
        GgmlType::Q5_1 => half(0) * (nibble(8, i) + 16 * bit(4, i)) as f32 + half(2),
        GgmlType::Q8_0 => half(0) * f32::from(block[2 + i] as i8),
        GgmlType::Iq4Nl => half(0) * STEPS[nibble(2, i) as usize],
        GgmlType::Mxfp4 => e8m0_to_f32(block[0]) * e2m1_to_f32(nibble(1, i) as u8),
        GgmlType::Q2K => {
            // 128 columns share 32 bytes, two bits each; a scale and a minimum for 16 columns.
            let code = block[16 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
            let scale = block[i / 16];
            half(80) * f32::from(scale & 15) * f32::from(code) - half(82) * f32::from(scale >> 4)
        }
        GgmlType::Q3K => {
            let low = i32::from(block[32 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3);
            let high = i32::from(block[i % 32] >> (i / 32) & 1);
            half(108) * (q3_scale(&block[96..108], i / 16) - 32) as f32 * (low + 4 * high - 4) as f32
        }
        GgmlType::Q4K => {
            // 64 columns share 32 bytes: low halves first.
            let code = block[16 + i / 64 * 32 + i % 32] >> (4 * (i % 64 / 32)) & 15;
            let [scale, min] = k4_scales(&block[4..16], i / 32);
            half(0) * scale * f32::from(code) - half(2) * min
        }
        GgmlType::Q5K => {
            let low = block[48 + i / 64 * 32 + i % 32] >> (4 * (i % 64 / 32)) & 15;
            let high = block[16 + i % 32] >> (i / 32) & 1;
            let [scale, min] = k4_scales(&block[4..16], i / 32);
            half(0) * scale * f32::from(low + 16 * high) - half(2) * min
        }
        GgmlType::Q6K => {
            // 128 columns: 64 bytes of low halves (columns 0-63 low, 64-127 high), 32 bytes with two bits more each.
            let (part, i) = (i / 128, i % 128);
            let low = block[part * 64 + i % 64] >> (4 * (i / 64)) & 15;
            let high = block[128 + part * 32 + i % 32] >> (2 * (i / 32)) & 3;
            let scale = block[192 + part * 8 + i / 16] as i8;
            half(208) * f32::from(scale) * (f32::from(low + 16 * high) - 32.0)
        }
        GgmlType::Iq4Xs => {
            let part = i / 32;
            let low = u32::from(block[4 + part / 2] >> (4 * (part % 2)) & 15);
            let high = u32::from(u16::from_le_bytes([block[2], block[3]]) >> (2 * part) & 3);
            let scale = (low + 16 * high) as f32 - 32.0;
            half(0) * scale * STEPS[nibble(8 + 16 * part, i % 32) as usize]
        }
    }
}

/// Scale `s` of 16: four bits in one of bytes 0 to 7, two in one of bytes 8 to 11.
fn q3_scale(bytes: &[u8], s: usize) -> i32 {
    let low = bytes[s % 8] >> (4 * (s / 8)) & 15;
    let high = bytes[8 + s % 4] >> (2 * (s / 4)) & 3;
    i32::from(low + 16 * high)
}

/// Scale and minimum `s` of 8, six bits each: the first four whole in bytes 0 to 7, of the others four bits in bytes 8
/// to 11 and two in the top of the first eight.
fn k4_scales(bytes: &[u8], s: usize) -> [f32; 2] {
    let [scale, min] = match s {
        0..4 => [bytes[s] & 63, bytes[s + 4] & 63],
        _ => [bytes[s + 4] & 15 | bytes[s - 4] >> 6 << 4, bytes[s + 4] >> 4 | bytes[s] >> 6 << 4],
    };
    [scale.into(), min.into()]
}
