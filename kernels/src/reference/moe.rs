//! References of routing and of the routed experts.

use super::{linear, silu_mul};
use crate::ops::{GateConfig, GroupScore, Scoring};

/// Chosen experts and their weights, `[T * top_k]` each, best first (see [`crate::ops::route`]).
pub fn route(
    logits: &[f32],
    bias: Option<&[f32]>,
    experts: usize,
    config: &GateConfig,
) -> (Vec<u32>, Vec<f32>) {
    let (mut ids, mut weights) = (Vec::new(), Vec::new());
    for logits in logits.chunks_exact(experts) {
        let scores = score(logits, config.scoring);
        let mut choice: Vec<f32> =
            scores.iter().enumerate().map(|(e, s)| s + bias.map_or(0.0, |b| b[e])).collect();
        mask_losing_groups(&mut choice, config);
        let chosen = top_k(&choice, config.top_k);
        let mut chosen_weights: Vec<f32> = chosen.iter().map(|&e| scores[e]).collect();
        if config.norm_topk_prob {
            let sum = chosen_weights.iter().sum::<f32>() + 1e-20;
            chosen_weights.iter_mut().for_each(|w| *w /= sum);
        }
        weights.extend(chosen_weights.iter().map(|w| w * config.routed_scaling_factor));
        ids.extend(chosen.iter().map(|&e| e as u32));
    }
    (ids, weights)
}

fn score(logits: &[f32], scoring: Scoring) -> Vec<f32> {
    match scoring {
        Scoring::Sigmoid => logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect(),
        Scoring::SqrtSoftplus => {
            // In f64, which neither overflows nor loses the one for any logit of a sound model.
            logits.iter().map(|&l| f64::from(l).exp().ln_1p().sqrt() as f32).collect()
        }
        Scoring::Softmax => {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exp: Vec<f32> = logits.iter().map(|l| (l - max).exp()).collect();
            let sum: f32 = exp.iter().sum();
            exp.iter().map(|e| e / sum).collect()
        }
    }
}

/// Minus infinity, not zero: a biased score may itself be negative.
fn mask_losing_groups(choice: &mut [f32], config: &GateConfig) {
    if config.n_group == 1 {
        return;
    }
    let size = choice.len() / config.n_group;
    let group_scores: Vec<f32> = choice
        .chunks_exact(size)
        .map(|group| {
            let best = top_k(group, 2.min(size));
            match config.group_score {
                GroupScore::Max => group[best[0]],
                GroupScore::TopTwoSum => best.iter().map(|&e| group[e]).sum(),
            }
        })
        .collect();
    let winners = top_k(&group_scores, config.topk_group);
    for (g, group) in choice.chunks_exact_mut(size).enumerate() {
        if !winners.contains(&g) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// Indices of the `k` largest values, largest first; ties go to the lower index.
fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
}

/// See [`crate::ops::moe_experts`]; `weights` are gate, up and down, `sizes` are `[D, I, top_k]`, `limit` is the
/// SwiGLU's.
pub fn moe_experts(
    x: &[f32],
    ids: &[u32],
    route_weights: &[f32],
    weights: [&[f32]; 3],
    sizes: [usize; 3],
    limit: Option<f32>,
) -> Vec<f32> {
    let [dim, inter, top_k] = sizes;
    let [gate, up, down] = weights.map(|w| move |e: usize| &w[e * dim * inter..][..dim * inter]);
    let mut out = vec![0.0; x.len()];
    for (t, (x, out)) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        for slot in t * top_k..(t + 1) * top_k {
            let expert = ids[slot] as usize;
            let mut hidden = linear(x, gate(expert), None, dim, inter);
            silu_mul(&mut hidden, &linear(x, up(expert), None, dim, inter), limit);
            let y = linear(&hidden, down(expert), None, inter, dim);
            out.iter_mut().zip(&y).for_each(|(o, y)| *o += route_weights[slot] * y);
        }
    }
    out
}
