//! MLA's two head-wise products with the packed `kv_b_proj`: the query into the latent space, the value out of it.

use super::level::{Kernel, Level};
use super::matmul::{Rows, project};
use super::memory::Scratch;
use super::packed::Matrix;
use super::parallel::{Disjoint, for_each};
use super::simd::{LANES, Simd};
use super::tile::{TILE_ROWS, add_scaled_rows};
use crate::Weight;
use crate::ops::MlaDims;

/// `[q_nope W_UK | q_rope]` per head: `q` `[T, H, nope + rope]`, `out` `[T, H, C + rope]`.
pub fn absorb_query(level: Level, q: &[f32], kv_b: &Weight, dims: &MlaDims, out: &mut [f32]) {
    let weight = Matrix::new(kv_b, 0);
    let (heads, width) = (dims.num_heads, dims.qk_head_dim());
    let Some(tokens) = q.len().checked_div(heads * width) else { return };
    let latent = dims.kv_lora_rank;
    let target = Disjoint::new(out);
    for_each(heads, tokens * heads * dims.qk_nope_head_dim * latent, |h| {
        let stride = latent.next_multiple_of(LANES);
        let mut values = Scratch::zeroed(tokens * stride);
        level.run(Absorb { q: &q[h * width..], weight: &weight, dims, head: h, tokens, values: &mut values });
        for t in 0..tokens {
            let row = t * heads + h;
            // SAFETY: every task has its own head.
            let out = unsafe { target.part(row * dims.row_width(), dims.row_width()) };
            let (nope, rope) = out.split_at_mut(latent);
            nope.copy_from_slice(&values[t * stride..][..latent]);
            rope.copy_from_slice(&q[row * width + dims.qk_nope_head_dim..][..dims.qk_rope_head_dim]);
        }
    });
}

/// One head for all tokens; `values` is `[T, C]` in whole vectors, zero at the start.
struct Absorb<'a> {
    q: &'a [f32],
    weight: &'a Matrix<'a>,
    dims: &'a MlaDims,
    head: usize,
    tokens: usize,
    values: &'a mut [f32],
}

impl Kernel for Absorb<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { q, weight, dims, head, tokens, values } = self;
        let (nope, latent) = (dims.qk_nope_head_dim, dims.kv_lora_rank);
        let first = head * (nope + dims.v_head_dim);
        let width = latent.div_ceil(LANES);
        // Few tokens: what is decoded stays in L1. Many: fewer passes over the sums.
        let step = if tokens <= 2 * TILE_ROWS { 16 } else { 64 };
        let mut panel = Scratch::zeroed(step * width * LANES);
        let values = values.as_chunks_mut::<LANES>().0;
        let q_stride = dims.num_heads * dims.qk_head_dim();
        for n in (0..nope).step_by(step) {
            let count = step.min(nope - n);
            for (i, row) in panel.chunks_exact_mut((width * LANES).max(1)).take(count).enumerate() {
                weight.decode(s, first + n + i, 0, &mut row[..latent]);
            }
            let rows = (panel.as_chunks().0, width);
            let tiles = tokens.div_ceil(TILE_ROWS);
            for tile in 0..tiles {
                let t = tile * tokens / tiles;
                let p = (&q[t * q_stride + n..], q_stride, count);
                let out = (&mut values[t * width..], width);
                match (tile + 1) * tokens / tiles - t {
                    1 => add_scaled_rows::<S, 1>(s, p, rows, out),
                    2 => add_scaled_rows::<S, 2>(s, p, rows, out),
                    3 => add_scaled_rows::<S, 3>(s, p, rows, out),
                    4 => add_scaled_rows::<S, 4>(s, p, rows, out),
                    5 => add_scaled_rows::<S, 5>(s, p, rows, out),
                    _ => add_scaled_rows::<S, 6>(s, p, rows, out),
                }
            }
        }
    }
}

/// `W_UV o` per head: `o` `[T, H, C]`, `out` `[T, H * v]`.
pub fn project_value(level: Level, o: &[f32], kv_b: &Weight, dims: &MlaDims, out: &mut [f32]) {
    let weight = Matrix::new(kv_b, 0);
    let (heads, latent, value) = (dims.num_heads, dims.kv_lora_rank, dims.v_head_dim);
    let Some(tokens) = o.len().checked_div(heads * latent) else { return };
    let target = Disjoint::new(out);
    for_each(heads, tokens * heads * value * latent, |h| {
        let x = Rows::strided(o, (h * latent, heads * latent), latent, tokens);
        let first = h * (dims.qk_nope_head_dim + value) + dims.qk_nope_head_dim;
        let mut values = Scratch::zeroed(tokens * value);
        project(level, &x, &weight, first..first + value, &mut values);
        for (t, values) in values.chunks_exact(value.max(1)).enumerate() {
            // SAFETY: every task has its own head.
            unsafe { target.part((t * heads + h) * value, value) }.copy_from_slice(values);
        }
    });
}
