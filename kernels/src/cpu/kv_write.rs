//! Cache rows of the step's tokens: norm, rope and rounding in one pass over each row.
//!
//! Tokens are taken in order on one core: two may name the same slot, and the later one must win.

use half::bf16;

use super::hadamard::hadamard;
use super::level::{Kernel, Level};
use super::rows::{Norm, Rotate};
use super::simd::{LANES, Simd};
use crate::{PackedRow, RopeLayout};

/// The cache, as rows to write.
pub enum CacheMut<'a> {
    /// `F32`.
    F32(&'a mut [f32]),
    /// `BF16`.
    Bf16(&'a mut [bf16]),
    /// Packed rows.
    Packed(&'a mut [u8], PackedRow),
}

impl CacheMut<'_> {
    /// Whether rows are multiplied by the Walsh-Hadamard matrix before they are stored.
    pub(super) fn is_rotated(&self) -> bool {
        matches!(self, Self::Packed(_, format) if format.is_rotated())
    }
}

/// `[rms_norm(latent) | rope(k_rope)]` of every row of `kv_a` `[T, C + R]` to row `slots[t]` of the cache.
pub fn mla_kv_write(
    level: Level,
    cache: &mut CacheMut<'_>,
    kv_a: &[f32],
    (weight, eps): (&[f32], f32),
    (cos, sin): (&[f32], &[f32]),
    slots: &[u32],
) {
    let Some(width) = kv_a.len().checked_div(slots.len()) else { return };
    let (latent, half) = (weight.len(), (width - weight.len()) / 2);
    let mut row = vec![0.0; width];
    for (t, &slot) in slots.iter().enumerate() {
        let from = &kv_a[t * width..][..width];
        let (normed, rotated) = row.split_at_mut(latent);
        level.run(Norm { x: &from[..latent], weight, eps, out: normed });
        rotated.copy_from_slice(&from[latent..]);
        let angles = (&cos[t * half..][..half], &sin[t * half..][..half]);
        level.run(Rotate { x: rotated, angles, layout: RopeLayout::Interleaved });
        store(level, cache, slot as usize * width, &row);
    }
}

/// `[rope(k) | v]` of every token to row `slots[t]` of the cache; `k` and `v` are `[T, H_kv, dim]`.
pub fn gqa_kv_write(
    level: Level,
    cache: &mut CacheMut<'_>,
    (k, v, dim): (&[f32], &[f32], usize),
    (cos, sin): (&[f32], &[f32]),
    layout: RopeLayout,
    slots: &[u32],
) {
    let Some(width) = k.len().checked_div(slots.len()) else { return };
    let half = dim / 2;
    let mut row = vec![0.0; width];
    for (t, &slot) in slots.iter().enumerate() {
        row.copy_from_slice(&k[t * width..][..width]);
        let angles = (&cos[t * half..][..half], &sin[t * half..][..half]);
        for head in row.chunks_exact_mut(dim) {
            level.run(Rotate { x: &mut head[..2 * half], angles, layout });
        }
        let start = slot as usize * 2 * width;
        store(level, cache, start, &row);
        store(level, cache, start + width, &v[t * width..][..width]);
    }
}

/// `layer_norm(k)` of every row of `k` `[T, D]`, its first `2 * half` columns rotated, to row `slots[t]` of the cache; all of
/// it by the Walsh-Hadamard matrix before it is packed.
pub fn index_key_write(
    level: Level,
    cache: &mut CacheMut<'_>,
    k: &[f32],
    (weight, bias, eps): (&[f32], &[f32], f32),
    (cos, sin): (&[f32], &[f32]),
    slots: &[u32],
) {
    let (dim, half) = (weight.len(), cos.len().checked_div(slots.len()).unwrap_or(0));
    let mut row = vec![0.0; dim];
    for (t, &slot) in slots.iter().enumerate() {
        layer_norm(&k[t * dim..][..dim], (weight, bias, eps), &mut row);
        let angles = (&cos[t * half..][..half], &sin[t * half..][..half]);
        level.run(Rotate { x: &mut row[..2 * half], angles, layout: RopeLayout::HalfSplit });
        if cache.is_rotated() {
            hadamard(&mut row);
        }
        store(level, cache, slot as usize * dim, &row);
    }
}

/// One row of layer norm; a row is so short that plain sums do.
fn layer_norm(x: &[f32], (weight, bias, eps): (&[f32], &[f32], f32), out: &mut [f32]) {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / x.len() as f32;
    let scale = 1.0 / (variance + eps).sqrt();
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}

/// `row` from element `start` of the cache on; a packed row is always written whole.
pub(super) fn store(level: Level, cache: &mut CacheMut<'_>, start: usize, row: &[f32]) {
    match cache {
        CacheMut::F32(cache) => cache[start..][..row.len()].copy_from_slice(row),
        CacheMut::Bf16(cache) => level.run(Round { row, to: &mut cache[start..][..row.len()] }),
        CacheMut::Packed(cache, format) => {
            let start = start / format.width() * format.bytes();
            format.encode(row, &mut cache[start..][..format.bytes()]);
        }
    }
}

/// A row rounded to `BF16`.
struct Round<'a> {
    row: &'a [f32],
    to: &'a mut [bf16],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (chunks, tail) = self.row.as_chunks::<LANES>();
        let (to, to_tail) = self.to.as_chunks_mut::<LANES>();
        for (to, chunk) in to.iter_mut().zip(chunks) {
            s.store_bf16(s.load(chunk), to);
        }
        for (to, value) in to_tail.iter_mut().zip(tail) {
            *to = bf16::from_f32(*value);
        }
    }
}
