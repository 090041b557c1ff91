//! [`Fp8Row`]: the packed row of an MLA cache, shared by the CPU backend, the references and the kernels
//! (`cuda/include/cache_row.cuh`).

use half::bf16;

use crate::{e4m3_to_f32, f32_to_e4m3};

/// A latent row in FP8: `[C e4m3 | ceil(C / 128) f32 scales | R bf16]`, as FlashMLA stores V3.2's cache.
///
/// Every 128 latent channels share a scale, their largest magnitude / 448. The scales start at a multiple of 4 bytes and
/// a row is a multiple of 16, filled up with zeros; at `C` = 512 and `R` = 64 that adds nothing and a row has 656 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp8Row {
    /// Latent channels `C`.
    pub kv_lora_rank: usize,
    /// Channels of the rope key `R`.
    pub qk_rope_head_dim: usize,
}

impl Fp8Row {
    /// Channels that share a scale.
    pub const SCALE_GROUP: usize = 128;
    /// The largest e4m3 magnitude.
    const MAX: f32 = 448.0;

    /// Byte of the first scale.
    pub const fn scales_at(self) -> usize {
        self.kv_lora_rank.next_multiple_of(4)
    }

    /// Byte of the rope key.
    pub const fn rope_at(self) -> usize {
        self.scales_at() + 4 * self.kv_lora_rank.div_ceil(Self::SCALE_GROUP)
    }

    /// Bytes of a row.
    pub const fn bytes(self) -> usize {
        (self.rope_at() + 2 * self.qk_rope_head_dim).next_multiple_of(16)
    }

    /// Values of a row: latent and rope key.
    pub const fn width(self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }

    /// Packs a row of `width` values into `to`.
    pub fn encode(self, row: &[f32], to: &mut [u8]) {
        to.fill(0);
        let (latent, rope) = row.split_at(self.kv_lora_rank);
        for (group, values) in latent.chunks(Self::SCALE_GROUP).enumerate() {
            let most = values.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
            let scale = if most / Self::MAX == 0.0 { 1.0 } else { most / Self::MAX };
            to[self.scales_at() + 4 * group..][..4].copy_from_slice(&scale.to_le_bytes());
            let bytes = &mut to[group * Self::SCALE_GROUP..][..values.len()];
            bytes.iter_mut().zip(values).for_each(|(to, v)| *to = f32_to_e4m3(v / scale));
        }
        for (to, v) in to[self.rope_at()..].chunks_exact_mut(2).zip(rope) {
            to.copy_from_slice(&bf16::from_f32(*v).to_le_bytes());
        }
    }

    /// The first values of a packed row, as many as `to` has.
    pub fn decode(self, row: &[u8], to: &mut [f32]) {
        let (latent, rope) = to.split_at_mut(self.kv_lora_rank.min(to.len()));
        let groups = latent.chunks_mut(Self::SCALE_GROUP).zip(row.chunks(Self::SCALE_GROUP));
        for (group, (to, bytes)) in groups.enumerate() {
            let at = self.scales_at() + 4 * group;
            let scale = f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
            to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = e4m3_to_f32(*byte) * scale);
        }
        for (to, pair) in rope.iter_mut().zip(row[self.rope_at()..].chunks_exact(2)) {
            *to = bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_released_models() {
        let row = Fp8Row { kv_lora_rank: 512, qk_rope_head_dim: 64 };
        assert_eq!((row.scales_at(), row.rope_at(), row.bytes()), (512, 528, 656));
        let odd = Fp8Row { kv_lora_rank: 35, qk_rope_head_dim: 6 };
        assert_eq!((odd.scales_at(), odd.rope_at(), odd.bytes()), (36, 40, 64));
    }

    #[test]
    fn a_group_keeps_its_largest_value_and_zeros_stay_zeros() {
        let row = Fp8Row { kv_lora_rank: 130, qk_rope_head_dim: 2 };
        let mut values = vec![0.0; 132];
        (values[3], values[7], values[128], values[130]) = (-3.0, 1.5, 1e-3, 0.15625);
        let mut bytes = vec![0xFF; row.bytes()];
        row.encode(&values, &mut bytes);
        let mut back = vec![f32::NAN; 132];
        row.decode(&bytes, &mut back);
        for (i, (got, want)) in back.iter().zip(&values).enumerate() {
            assert!((got - want).abs() <= want.abs() * 1e-6, "value {i} is {got}, expected {want}");
        }
        row.encode(&[0.0; 132], &mut bytes);
        row.decode(&bytes, &mut back);
        assert_eq!(back, [0.0; 132]);
    }
}
