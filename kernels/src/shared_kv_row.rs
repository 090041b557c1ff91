//! [`SharedKvRow`]: the packed row that is key and value of all heads, shared by the CPU backend, the references and the
//! kernels (`cuda/include/cache_row.cuh`).

use half::bf16;

use crate::dtype::e4m3_scale;
use crate::{e4m3_to_f32, e8m0_to_f32, f32_to_e4m3};

/// A row of V4's windows and entries in FP8: `[N e4m3 | ceil(N / 64) e8m0 scales | R bf16]`, `N` the channels that rope
/// leaves alone and `R` those that it turns.
///
/// Every 64 of the `N` channels share a scale, the least power of two by which the largest of them, or 1e-4, is no more than
/// 448; the last may be fewer (`act_quant` of DeepSeek-V4's `inference/kernel.py`). Rope channels and the row are filled up
/// with zeros to begin and end at multiples of 8 bytes: 584 bytes at the release's `N` = 448 and `R` = 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedKvRow {
    /// Channels `N + R`.
    pub head_dim: usize,
    /// The last of them, `R`.
    pub qk_rope_head_dim: usize,
}

impl SharedKvRow {
    /// Channels that share a scale.
    pub const SCALE_GROUP: usize = 64;

    /// Channels in e4m3, `N`; their scales follow.
    pub const fn num_packed(self) -> usize {
        self.head_dim - self.qk_rope_head_dim
    }

    /// Byte of the rope channels.
    pub const fn rope_at(self) -> usize {
        (self.num_packed() + self.num_packed().div_ceil(Self::SCALE_GROUP)).next_multiple_of(8)
    }

    /// Bytes of a row.
    pub const fn bytes(self) -> usize {
        (self.rope_at() + 2 * self.qk_rope_head_dim).next_multiple_of(8)
    }

    /// Packs a row of `head_dim` values into `to`.
    pub fn encode(self, row: &[f32], to: &mut [u8]) {
        to.fill(0);
        let (values, rope) = row.split_at(self.num_packed());
        let (bytes, rest) = to.split_at_mut(self.num_packed());
        let groups = bytes.chunks_mut(Self::SCALE_GROUP).zip(values.chunks(Self::SCALE_GROUP));
        for ((to, values), scale_byte) in groups.zip(rest) {
            let scale = e4m3_scale(values);
            *scale_byte = (scale.to_bits() >> 23) as u8;
            to.iter_mut().zip(values).for_each(|(to, v)| *to = f32_to_e4m3(v / scale));
        }
        for (to, v) in to[self.rope_at()..].chunks_exact_mut(2).zip(rope) {
            to.copy_from_slice(&bf16::from_f32(*v).to_le_bytes());
        }
    }

    /// The first values of a packed row, as many as `to` has.
    pub fn decode(self, row: &[u8], to: &mut [f32]) {
        let (values, rope) = to.split_at_mut(self.num_packed().min(to.len()));
        let (bytes, scales) = row.split_at(self.num_packed());
        let groups = values.chunks_mut(Self::SCALE_GROUP).zip(bytes.chunks(Self::SCALE_GROUP));
        for ((to, bytes), scale) in groups.zip(scales) {
            let scale = e8m0_to_f32(*scale);
            to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = e4m3_to_f32(*byte) * scale);
        }
        for (to, pair) in rope.iter_mut().zip(row[self.rope_at()..].chunks_exact(2)) {
            *to = bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
        }
    }
}
