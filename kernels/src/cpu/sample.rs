//! Sampling on the CPU, without sorting the vocabulary: `top_k` is a selection, and `top_p` sorts only as many leading
//! candidates as it needs.
//!
//! A weight is `exp((logit - max) / T)` by a sequence of single operations that every device repeats bit for bit, and a
//! mass is the weight in units of 2^-44 as an integer. Sums of masses are exact whatever their order, so no device can
//! choose another token than this one. A token below 2^-44 of the best one's probability is never drawn.

use std::cmp::Ordering;

use crate::ops::{Choice, LogitEdit, SampleParams};

/// Candidates that `top_p` sorts first; most distributions are decided within them.
const FIRST_SORTED: usize = 64;
/// Masses per unit of weight.
const UNIT: f32 = (1_u64 << 44) as f32;

/// A token still in play.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Its unnormalised probability, at most 1.
    weight: f32,
    token: u32,
}

impl Candidate {
    fn mass(&self) -> u64 {
        mass(self.weight)
    }

    /// Most probable first, ties by id, so that every set is unique.
    fn order(a: &Self, b: &Self) -> Ordering {
        b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
    }
}

/// One row of `ops::sample`; leaves `logits` as edits and mask changed them.
pub fn sample_row(
    logits: &mut [f32],
    params: &SampleParams,
    edits: &[LogitEdit],
    allowed: Option<&[u32]>,
    candidates: &mut Vec<Candidate>,
) -> Choice {
    if let Some(token) = logits.iter().position(|v| v.is_nan() || *v == f32::INFINITY) {
        return Choice::NoDistribution { token: token as u32, logit: logits[token] };
    }
    // Read before edits change the logits in place, looked up once the token is known.
    let raw = (params.logprob != 0).then(|| (logits.to_vec(), log_sum_exp(logits)));
    edit(logits, params, edits);
    if let Some(allowed) = allowed {
        for (token, logit) in logits.iter_mut().enumerate() {
            if allowed[token / 32] >> (token % 32) & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    let best = argmax(logits);
    let max = logits[best as usize];
    // Greedy takes an overflowed logit as it is; a draw has nothing to set the others in relation to.
    if max == f32::NEG_INFINITY || (max == f32::INFINITY && params.temperature != 0.0) {
        return Choice::NoDistribution { token: best, logit: max };
    }
    let id = if params.temperature == 0.0 { best } else { draw(logits, max, params, candidates) };
    let logprob = raw.map_or(f32::NAN, |(raw, normaliser)| raw[id as usize] - normaliser);
    Choice::Token { id, logprob }
}

fn edit(logits: &mut [f32], params: &SampleParams, edits: &[LogitEdit]) {
    for edit in edits {
        let logit = &mut logits[edit.token as usize];
        *logit += edit.bias;
        if edit.seen != 0 {
            let penalty = params.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        if edit.generated > 0 {
            *logit -= params.frequency_penalty * edit.generated as f32 + params.presence_penalty;
        }
    }
}

/// The lowest id among the largest logits.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (&logit, token) in logits.iter().zip(0u32..) {
        if logit > best.0 {
            best = (logit, token);
        }
    }
    best.1
}

/// One draw from the filtered distribution of processed logits whose largest is `max`.
fn draw(logits: &[f32], max: f32, params: &SampleParams, candidates: &mut Vec<Candidate>) -> u32 {
    filter(logits, max, params, candidates);
    let total: u64 = candidates.iter().map(Candidate::mass).sum();
    let goal = ((u128::from(params.random) * u128::from(total)) >> 64) as u64;
    let mut sum = 0;
    for candidate in &*candidates {
        sum += candidate.mass();
        if sum > goal {
            return candidate.token;
        }
    }
    unreachable!("the goal is below the total, and the best token's mass is above zero")
}

/// Fills `candidates` with the tokens that temperature, `min_p`, `top_k` and `top_p` keep: by id, or best first if
/// `top_p` had to order them.
fn filter(logits: &[f32], max: f32, params: &SampleParams, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    candidates.extend(logits.iter().zip(0u32..).filter_map(|(&logit, token)| {
        // A weight relative to the best token: `min_p` is then a plain comparison.
        let weight = weight((logit - max) / params.temperature);
        (weight >= params.min_p && mass(weight) > 0).then_some(Candidate { weight, token })
    }));
    let top_k = params.top_k as usize;
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, Candidate::order);
        candidates.truncate(top_k);
        // Selection leaves an arbitrary order; ids make the draw independent of the algorithm.
        candidates.sort_unstable_by_key(|c| c.token);
    }
    if params.top_p < 1.0 {
        keep_nucleus(candidates, params.top_p);
    }
}

/// Keeps the smallest leading set whose probability reaches `top_p`; at least one candidate stays.
fn keep_nucleus(candidates: &mut Vec<Candidate>, top_p: f32) {
    let total: u64 = candidates.iter().map(Candidate::mass).sum();
    let goal = ((f64::from(top_p) * total as f64).ceil() as u64).min(total);
    let (mut sorted, mut sum, mut prefix) = (0, 0, FIRST_SORTED);
    while sorted < candidates.len() {
        let end = prefix.min(candidates.len());
        if end < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(end - sorted - 1, Candidate::order);
        }
        candidates[sorted..end].sort_unstable_by(Candidate::order);
        for i in sorted..end {
            sum += candidates[i].mass();
            if sum >= goal {
                candidates.truncate(i + 1);
                return;
            }
        }
        (sorted, prefix) = (end, prefix * 8);
    }
}

/// The logarithm of the sum of `exp(logit)`.
fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits[argmax(logits) as usize];
    let sum: u64 = logits.iter().map(|&logit| mass(weight(logit - max))).sum();
    max + (sum as f64 / f64::from(UNIT)).ln() as f32
}

/// A weight in units of 2^-44, rounded down.
fn mass(weight: f32) -> u64 {
    (weight * UNIT) as u64
}

/// `exp(x)` for `x <= 0` to 2 units in the last place; 0 below -40 and for NaN. Cody and Waite's reduction and Cephes'
/// polynomial. No step may be fused or reordered: `cuda/sample.cu` repeats them.
#[expect(
    clippy::excessive_precision,
    clippy::approx_constant,
    reason = "the numbers of the kernel, digit for digit"
)]
fn weight(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer.
    const SHIFT: f32 = 12_582_912.0;
    let in_range = x >= -40.0;
    let x = if in_range { x } else { 0.0 };
    let n = (x * 1.442_695_04 + SHIFT) - SHIFT;
    let r = x - n * 0.693_359_375;
    let r = r + n * 2.121_944_4e-4;
    let mut p = 1.987_569_15e-4;
    for coefficient in [1.398_199_95e-3, 8.333_451_91e-3, 4.166_579_59e-2, 1.666_666_55e-1, 5.000_000_12e-1] {
        p = p * r + coefficient;
    }
    let p = (p * r * r + r) + 1.0;
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if in_range { p * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::weight;

    #[test]
    fn weights_are_exponentials() {
        assert_eq!((weight(0.0), weight(-0.0)), (1.0, 1.0));
        assert_eq!([-40.001, f32::NEG_INFINITY, f32::NAN].map(weight), [0.0; 3]);
        for i in 0..=400_000 {
            let x = i as f32 * -1e-4;
            let want = f64::from(x).exp();
            let apart = (f64::from(weight(x)) - want).abs() / want;
            assert!(apart <= 2.0 * f64::from(f32::EPSILON) && weight(x) <= 1.0, "exp({x}) is off by {apart}");
        }
    }
}
