//! References of hyper-connections, token by token.

use crate::ops::HyperConfig;

/// Maps of one token's streams `x` `[S * D]`: `fn_weight` is `[M, S * D]`, `M` is the length of `base`.
pub fn hyper_maps(
    x: &[f32],
    fn_weight: &[f32],
    scale: &[f32],
    base: &[f32],
    config: &HyperConfig,
) -> Vec<f32> {
    let s = config.streams;
    let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
    let rms = (mean + config.norm_eps).sqrt();
    let m: Vec<f32> = fn_weight
        .chunks_exact(x.len())
        .map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum::<f32>() / rms)
        .collect();
    let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
    let mut maps: Vec<f32> = (0..s).map(|j| sigmoid(m[j] * scale[0] + base[j]) + config.eps).collect();
    if base.len() == s {
        return maps;
    }
    maps.extend((s..2 * s).map(|j| 2.0 * sigmoid(m[j] * scale[1] + base[j])));
    let mut mix: Vec<Vec<f32>> = Vec::new();
    for j in 0..s {
        let logits: Vec<f32> =
            (0..s).map(|k| m[2 * s + j * s + k] * scale[2] + base[2 * s + j * s + k]).collect();
        let sum: f32 = logits.iter().map(|l| l.exp()).sum();
        mix.push(logits.iter().map(|l| l.exp() / sum + config.eps).collect());
    }
    let columns = |mix: &mut Vec<Vec<f32>>| {
        for k in 0..s {
            let sum: f32 = mix.iter().map(|row| row[k]).sum();
            mix.iter_mut().for_each(|row| row[k] /= sum + config.eps);
        }
    };
    columns(&mut mix);
    for _ in 1..config.sinkhorn_iters {
        for row in &mut mix {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum + config.eps);
        }
        columns(&mut mix);
    }
    maps.extend(mix.concat());
    maps
}

/// `sum_j pre[j] x[j]` of one token: `x` `[S, D]`.
pub fn hyper_collapse(x: &[f32], maps: &[f32], dim: usize) -> Vec<f32> {
    (0..dim).map(|d| x.chunks_exact(dim).zip(maps).map(|(row, w)| w * row[d]).sum()).collect()
}

/// `post[k] y + sum_j mix[j, k] x[j]` of one token: `x` and the result `[S, D]`, `y` `[D]`.
pub fn hyper_expand(x: &[f32], y: &[f32], maps: &[f32], s: usize) -> Vec<f32> {
    let dim = y.len();
    let (post, mix) = maps[s..].split_at(s);
    let value =
        |k: usize, d: usize| post[k] * y[d] + (0..s).map(|j| mix[j * s + k] * x[j * dim + d]).sum::<f32>();
    (0..s).flat_map(|k| (0..dim).map(move |d| (k, d))).map(|(k, d)| value(k, d)).collect()
}
