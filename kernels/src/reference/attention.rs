//! References of rope, of MLA in both forms, and of grouped-query attention.

use crate::RopeLayout;
use crate::ops::MlaDims;

/// Rotates one vector of `2 * cos.len()` channels in place.
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    let half = cos.len();
    for j in 0..half {
        let (a, b) = match layout {
            RopeLayout::Interleaved => (2 * j, 2 * j + 1),
            RopeLayout::HalfSplit => (j, j + half),
        };
        let (even, odd) = (x[a], x[b]);
        x[a] = even * cos[j] - odd * sin[j];
        x[b] = odd * cos[j] + even * sin[j];
    }
}

/// Softmax attention of one query over chosen rows; `key` and `value` map a cache row to its slice.
fn attend<'a>(
    q: &[f32],
    visible: &[u32],
    scale: f32,
    key: impl Fn(usize) -> &'a [f32],
    value: impl Fn(usize) -> &'a [f32],
    value_dim: usize,
) -> Vec<f32> {
    let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>() * scale;
    let scores: Vec<f32> = visible.iter().map(|&r| dot(key(r as usize))).collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f32 = exp.iter().sum();
    let mut out = vec![0.0; value_dim];
    for (&r, e) in visible.iter().zip(&exp) {
        out.iter_mut().zip(value(r as usize)).for_each(|(o, v)| *o += e / sum * v);
    }
    out
}

/// All heads over one shared row per token: `q` `[T, H, width]`, `rows` `[R, width]`, value = first `latent` columns;
/// `sizes` are `[H, width, latent]`, `visible[t]` the rows that token `t` sees.
pub fn mqa(q: &[f32], rows: &[f32], visible: &[Vec<u32>], sizes: [usize; 3], scale: f32) -> Vec<f32> {
    let [heads, width, latent] = sizes;
    let mut out = Vec::new();
    for (i, q) in q.chunks_exact(width).enumerate() {
        let key = |r: usize| &rows[r * width..][..width];
        let value = |r: usize| &rows[r * width..][..latent];
        out.extend(attend(q, &visible[i / heads], scale, key, value, latent));
    }
    out
}

/// [`mqa`] with a sink per head, whole rows as values: each head's softmax has one more term `exp(sinks[h])`, which has no
/// value. `sizes` are `[H, D]`.
pub fn window(
    q: &[f32],
    rows: &[f32],
    visible: &[Vec<u32>],
    sinks: &[f32],
    [heads, dim]: [usize; 2],
    scale: f32,
) -> Vec<f32> {
    let mut out = Vec::new();
    for (i, q) in q.chunks_exact(dim).enumerate() {
        let row = |r: u32| &rows[r as usize * dim..][..dim];
        let weight = |r: u32| (q.iter().zip(row(r)).map(|(a, b)| a * b).sum::<f32>() * scale).exp();
        let seen = &visible[i / heads];
        let total = seen.iter().map(|&r| weight(r)).sum::<f32>() + sinks[i % heads].exp();
        out.extend((0..dim).map(|d| seen.iter().map(|&r| weight(r) / total * row(r)[d]).sum::<f32>()));
    }
    out
}

/// Grouped heads: `q` `[T, H, D]`, `rows` `[R, 2 * H_kv * D]`; `sizes` are `[H, H_kv, D]`.
pub fn gqa(q: &[f32], rows: &[f32], visible: &[Vec<u32>], sizes: [usize; 3], scale: f32) -> Vec<f32> {
    let [heads, kv_heads, dim] = sizes;
    let width = 2 * kv_heads * dim;
    let mut out = Vec::new();
    for (i, q) in q.chunks_exact(dim).enumerate() {
        let kv_head = (i % heads) / (heads / kv_heads);
        let key = |r: usize| &rows[r * width + kv_head * dim..][..dim];
        let value = |r: usize| &rows[r * width + (kv_heads + kv_head) * dim..][..dim];
        out.extend(attend(q, &visible[i / heads], scale, key, value, dim));
    }
    out
}

/// `[q_nope W_UK | q_rope]` per head: `q` `[T, H, nope + rope]`, `kv_b` `[H * (nope + v), C]`.
pub fn mla_absorb_query(q: &[f32], kv_b: &[f32], dims: &MlaDims) -> Vec<f32> {
    let MlaDims { num_heads, qk_nope_head_dim: nope, v_head_dim, kv_lora_rank: latent, .. } = *dims;
    let mut out = Vec::new();
    for (i, q) in q.chunks_exact(dims.qk_head_dim()).enumerate() {
        let key_rows = &kv_b[(i % num_heads) * (nope + v_head_dim) * latent..];
        out.extend((0..latent).map(|c| (0..nope).map(|n| q[n] * key_rows[n * latent + c]).sum::<f32>()));
        out.extend_from_slice(&q[nope..]);
    }
    out
}

/// `W_UV o` per head: `o` `[T, H, C]`, `kv_b` `[H * (nope + v), C]`, to `[T, H * v]`.
pub fn mla_project_value(o: &[f32], kv_b: &[f32], dims: &MlaDims) -> Vec<f32> {
    let MlaDims { num_heads, qk_nope_head_dim: nope, v_head_dim, kv_lora_rank: latent, .. } = *dims;
    let mut out = Vec::new();
    for (i, o) in o.chunks_exact(latent).enumerate() {
        let value_rows = &kv_b[((i % num_heads) * (nope + v_head_dim) + nope) * latent..];
        out.extend(
            (0..v_head_dim)
                .map(|v| o.iter().zip(&value_rows[v * latent..][..latent]).map(|(a, b)| a * b).sum::<f32>()),
        );
    }
    out
}

/// MLA as the papers first write it: keys and values expanded per head from the cached `rows` `[R, C + rope]`, then
/// ordinary attention. `q` is `[T, H, nope + rope]`, rotated; the result is `[T, H * v]`.
pub fn mla_naive(
    q: &[f32],
    rows: &[f32],
    kv_b: &[f32],
    visible: &[Vec<u32>],
    dims: &MlaDims,
    scale: f32,
) -> Vec<f32> {
    let MlaDims { num_heads, qk_nope_head_dim: nope, v_head_dim, kv_lora_rank: latent, .. } = *dims;
    let (width, qk) = (dims.row_width(), dims.qk_head_dim());
    let count = rows.len() / width;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for row in rows.chunks_exact(width) {
        for h in 0..num_heads {
            let expand = |r: usize| {
                let weight = &kv_b[(h * (nope + v_head_dim) + r) * latent..][..latent];
                weight.iter().zip(row).map(|(a, b)| a * b).sum::<f32>()
            };
            keys.extend((0..nope).map(expand));
            keys.extend_from_slice(&row[latent..]);
            values.extend((nope..nope + v_head_dim).map(expand));
        }
    }
    debug_assert_eq!(keys.len(), count * num_heads * qk);
    let mut out = Vec::new();
    for (i, q) in q.chunks_exact(qk).enumerate() {
        let h = i % num_heads;
        let key = |r: usize| &keys[(r * num_heads + h) * qk..][..qk];
        let value = |r: usize| &values[(r * num_heads + h) * v_head_dim..][..v_head_dim];
        out.extend(attend(q, &visible[i / num_heads], scale, key, value, v_head_dim));
    }
    out
}
