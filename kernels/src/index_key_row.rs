//! [`IndexKeyRow`]: the packed index key of V3.2's lightning indexer, shared by the CPU backend and the kernels
//! (`cuda/include/index_vector.cuh`).

use crate::dtype::e4m3_scale;
use crate::{e4m3_to_f32, f32_to_e4m3};

/// An index key in FP8: `[D e4m3 | f32 scale]`, 132 bytes at the release's 128 channels.
///
/// All channels share the scale, the least power of two by which the largest of them, or 1e-4, is no more than 448. It starts at a multiple of 4 bytes; so does
/// the next row, and a cache of such rows has no other padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexKeyRow {
    /// Channels `D`.
    pub index_head_dim: usize,
}

impl IndexKeyRow {
    /// Byte of the scale.
    pub const fn scale_at(self) -> usize {
        self.index_head_dim.next_multiple_of(4)
    }

    /// Bytes of a row.
    pub const fn bytes(self) -> usize {
        self.scale_at() + 4
    }

    /// Divides `row` by its scale and rounds it to e4m3 values, which stay floats; returns the scale.
    pub fn round(row: &mut [f32]) -> f32 {
        let scale = e4m3_scale(row);
        row.iter_mut().for_each(|v| *v = e4m3_to_f32(f32_to_e4m3(*v / scale)));
        scale
    }

    /// Packs a row of `D` values into `to`.
    pub fn encode(self, row: &[f32], to: &mut [u8]) {
        let scale = e4m3_scale(row);
        let (bytes, tail) = to.split_at_mut(self.index_head_dim);
        tail.fill(0);
        bytes.iter_mut().zip(row).for_each(|(to, v)| *to = f32_to_e4m3(v / scale));
        to[self.scale_at()..].copy_from_slice(&scale.to_le_bytes());
    }

    /// The first values of a packed row, as many as `to` has, times their scale: exact, as it is a power of two.
    pub fn decode(self, row: &[u8], to: &mut [f32]) {
        let at = self.scale_at();
        let scale = f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        to.iter_mut().zip(row).for_each(|(to, byte)| *to = e4m3_to_f32(*byte) * scale);
    }
}
