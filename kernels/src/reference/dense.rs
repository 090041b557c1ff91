//! References of embedding, norms, linear and SwiGLU.

/// Rows `ids` of `table` `[V, dim]`.
pub fn embedding(table: &[f32], dim: usize, ids: &[u32]) -> Vec<f32> {
    ids.iter().flat_map(|&id| &table[id as usize * dim..][..dim]).copied().collect()
}

/// `x / sqrt(mean(x^2) + eps) * weight` per row of `dim`.
pub fn rms_norm(x: &[f32], weight: &[f32], dim: usize, eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(dim) {
        let mean_square = row.iter().map(|v| v * v).sum::<f32>() / dim as f32;
        let scale = 1.0 / (mean_square + eps).sqrt();
        out.extend(row.iter().zip(weight).map(|(v, w)| v * scale * w));
    }
    out
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` per row of `weight`'s length.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / row.len() as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        out.extend(row.iter().zip(weight).zip(bias).map(|((v, w), b)| (v - mean) * scale * w + b));
    }
    out
}

/// `x W^T + bias`: `x` `[T, k]`, `weight` `[n, k]`.
pub fn linear(x: &[f32], weight: &[f32], bias: Option<&[f32]>, k: usize, n: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / k.max(1) * n);
    for row in x.chunks_exact(k) {
        for o in 0..n {
            let dot: f32 = row.iter().zip(&weight[o * k..][..k]).map(|(a, b)| a * b).sum();
            out.push(dot + bias.map_or(0.0, |b| b[o]));
        }
    }
    out
}

/// `gate = silu(gate) * up`; with a limit `gate` is cut off above it and `up` on both sides first.
pub fn silu_mul(gate: &mut [f32], up: &[f32], limit: Option<f32>) {
    for (g, &u) in gate.iter_mut().zip(up) {
        let (mut clamped, mut u) = (*g, u);
        if let Some(limit) = limit {
            clamped = clamped.min(limit);
            u = u.clamp(-limit, limit);
        }
        *g = clamped / (1.0 + (-clamped).exp()) * u;
    }
}

/// [`linear`] in groups: `x` `[T, groups * k]`, `weight` `[groups * n, k]`, to `[T, groups * n]`.
pub fn grouped_linear(x: &[f32], weight: &[f32], groups: usize, k: usize, n: usize) -> Vec<f32> {
    let rows = x.chunks_exact(groups * k).flat_map(|row| row.chunks_exact(k).enumerate());
    rows.flat_map(|(g, x)| linear(x, &weight[g * n * k..][..n * k], None, k, n)).collect()
}
