//! Sampling by the definition: everything is sorted, sums are in `f64`.

use crate::ops::{LogitEdit, SampleParams};

/// The token and its log-probability, of logits that define a distribution. `allowed` answers for each token.
pub fn sample(
    logits: &[f32],
    params: &SampleParams,
    edits: &[LogitEdit],
    allowed: impl Fn(usize) -> bool,
) -> (u32, f32) {
    let mut x = logits.to_vec();
    for edit in edits {
        let logit = &mut x[edit.token as usize];
        *logit += edit.bias;
        if edit.seen != 0 && *logit > 0.0 {
            *logit /= params.repetition_penalty;
        } else if edit.seen != 0 {
            *logit *= params.repetition_penalty;
        }
        let generated = edit.generated as f32;
        *logit -= params.frequency_penalty * generated + params.presence_penalty * generated.min(1.0);
    }
    let mut sorted: Vec<usize> = (0..x.len()).filter(|&i| allowed(i)).collect();
    sorted.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    let best = sorted[0];
    let id = if params.temperature == 0.0 { best } else { draw(&x, sorted, params) };

    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
    (id as u32, (f64::from(logits[id] - max) - sum.ln()) as f32)
}

/// One draw from what the filters keep of `kept`, which comes best first.
fn draw(x: &[f32], mut kept: Vec<usize>, params: &SampleParams) -> usize {
    let max = x[kept[0]];
    let weight = |i: usize| f64::from((x[i] - max) / params.temperature).exp();
    kept.retain(|&i| weight(i) >= f64::from(params.min_p) && x[i] > f32::NEG_INFINITY);
    if params.top_k > 0 {
        kept.truncate(params.top_k as usize);
    }
    if params.top_p < 1.0 {
        let total: f64 = kept.iter().map(|&i| weight(i)).sum();
        let mut before = 0.0;
        kept.retain(|&i| {
            let keep = before < f64::from(params.top_p) * total;
            before += weight(i);
            keep
        });
    } else {
        kept.sort_unstable();
    }
    let total: f64 = kept.iter().map(|&i| weight(i)).sum();
    let goal = params.random as f64 / 2.0_f64.powi(64) * total;
    let mut sum = 0.0;
    let drawn = kept.iter().copied().find(|&i| {
        sum += weight(i);
        sum > goal
    });
    drawn.unwrap_or(kept[kept.len() - 1])
}
