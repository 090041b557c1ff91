//! [`Fp4KeyRow`]: the packed index key of V4's lightning indexer, shared by the CPU backend and the kernels
//! (`cuda/include/index_vector.cuh`).

use crate::{e2m1_to_f32, e8m0_to_f32, f32_to_e2m1};

/// An index key in FP4: `[D / 2 bytes of two e2m1 codes | ceil(D / 32) e8m0 scales]`, 68 bytes at the release's 128 channels.
///
/// The first code of a byte is in its low bits. Every 32 channels share a scale, the least power of two by which the largest of
/// them, or 6 * 2^-126, is no more than 6 (`fp4_act_quant` of DeepSeek-V4's `inference/kernel.py`); of channels with a NaN
/// it is NaN. A row is filled up with zeros to a multiple of 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp4KeyRow {
    /// Channels `D`, an even number.
    pub index_head_dim: usize,
}

impl Fp4KeyRow {
    /// Channels that share a scale.
    pub const SCALE_GROUP: usize = 32;

    /// Byte of the first scale.
    pub const fn scales_at(self) -> usize {
        self.index_head_dim / 2
    }

    /// Bytes of a row.
    pub const fn bytes(self) -> usize {
        (self.scales_at() + self.index_head_dim.div_ceil(Self::SCALE_GROUP)).next_multiple_of(4)
    }

    fn scale_of(values: &[f32]) -> f32 {
        if values.iter().any(|v| v.is_nan()) {
            return f32::NAN;
        }
        let most = values.iter().fold(6.0 * f32::MIN_POSITIVE, |most: f32, v| most.max(v.abs()));
        // 6 is 1.5 * 2^2. A mantissa above 1.5 carries into the exponent.
        f32::from_bits((((most.to_bits() + 0x3F_FFFF) >> 23) - 2) << 23)
    }

    /// Rounds `row` to what a packed one gives back.
    pub fn round(row: &mut [f32]) {
        for group in row.chunks_mut(Self::SCALE_GROUP) {
            let scale = Self::scale_of(group);
            group.iter_mut().for_each(|v| *v = e2m1_to_f32(f32_to_e2m1(*v / scale)) * scale);
        }
    }

    /// Packs a row of `D` values into `to`.
    pub fn encode(self, row: &[f32], to: &mut [u8]) {
        to.fill(0);
        let (codes, scales) = to.split_at_mut(self.scales_at());
        let groups = codes.chunks_mut(Self::SCALE_GROUP / 2).zip(row.chunks(Self::SCALE_GROUP));
        for ((codes, values), scale_byte) in groups.zip(scales) {
            let scale = Self::scale_of(values);
            *scale_byte = (scale.to_bits() >> 23) as u8;
            for (code, pair) in codes.iter_mut().zip(values.chunks_exact(2)) {
                *code = f32_to_e2m1(pair[0] / scale) | f32_to_e2m1(pair[1] / scale) << 4;
            }
        }
    }

    /// The first values of a packed row, as many as `to` has: exact, as scales are powers of two.
    pub fn decode(self, row: &[u8], to: &mut [f32]) {
        let (codes, scales) = row.split_at(self.scales_at());
        for (c, to) in to.iter_mut().enumerate() {
            let code = codes[c / 2] >> (c % 2 * 4);
            *to = e2m1_to_f32(code) * e8m0_to_f32(scales[c / Self::SCALE_GROUP]);
        }
    }
}
