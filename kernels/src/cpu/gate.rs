//! Expert routing: vectorised scores, then selection without sorting.

use super::level::{Kernel, Level};
use super::memory::Scratch;
use super::parallel::{Disjoint, for_each};
use super::simd::{LANES, Simd, exp};
use crate::ops::{GateConfig, GroupScore, Scoring};

/// Tokens of one task.
const TOKENS: usize = 16;

/// Chosen experts and their weights of router `logits` `[T, experts]`, `[T, top_k]` each, best first.
pub fn route(
    level: Level,
    logits: &[f32],
    bias: Option<&[f32]>,
    experts: usize,
    config: &GateConfig,
    (ids, weights): (&mut [u32], &mut [f32]),
) {
    let top_k = config.top_k;
    let Some(tokens) = logits.len().checked_div(experts) else { return };
    // An exponential and top_k comparisons per logit.
    let work = logits.len() * (16 + top_k);
    let (ids, weights) = (Disjoint::new(ids), Disjoint::new(weights));
    for_each(tokens.div_ceil(TOKENS), work, |task| {
        let mut scores = Scratch::zeroed(experts.next_multiple_of(LANES));
        let mut choice = vec![0; experts];
        for t in task * TOKENS..((task + 1) * TOKENS).min(tokens) {
            // SAFETY: every task has its own tokens.
            let (ids, weights) = unsafe { (ids.part(t * top_k, top_k), weights.part(t * top_k, top_k)) };
            level.run(Score {
                logits: &logits[t * experts..][..experts],
                scoring: config.scoring,
                scores: &mut scores,
            });
            for (e, key) in choice.iter_mut().enumerate() {
                *key = ordered(scores[e] + bias.map_or(0.0, |b| b[e]));
            }
            mask_losing_groups(&mut choice, config);
            take_largest(&mut choice, ids);
            weigh(&scores, ids, config, weights);
        }
    });
}

/// Weights `[T, top_k]` of the experts `ids` `[T, top_k]` that something other than the logits chose.
pub fn weigh_chosen(
    level: Level,
    logits: &[f32],
    ids: &[u32],
    experts: usize,
    config: &GateConfig,
    weights: &mut [f32],
) {
    let mut scores = Scratch::zeroed(experts.next_multiple_of(LANES));
    let top_k = config.top_k.max(1);
    let tokens = logits.chunks_exact(experts.max(1)).zip(ids.chunks_exact(top_k));
    for ((logits, ids), weights) in tokens.zip(weights.chunks_exact_mut(top_k)) {
        level.run(Score { logits, scoring: config.scoring, scores: &mut scores });
        weigh(&scores, ids, config, weights);
    }
}

/// Scores of one token.
struct Score<'a> {
    logits: &'a [f32],
    scoring: Scoring,
    scores: &'a mut [f32],
}

impl Kernel for Score<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { logits, scoring, scores } = self;
        scores.fill(f32::NEG_INFINITY);
        scores[..logits.len()].copy_from_slice(logits);
        if scoring == Scoring::SqrtSoftplus {
            // There is no vector logarithm; a few hundred scalar ones are nothing beside the router's matmul.
            scores[..logits.len()].iter_mut().for_each(|score| *score = softplus(*score).sqrt());
            return;
        }
        let chunks = scores.as_chunks_mut::<LANES>().0;
        match scoring {
            Scoring::SqrtSoftplus => {}
            Scoring::Sigmoid => {
                for chunk in chunks {
                    let e = exp(s, s.sub(s.splat(0.0), s.load(chunk)));
                    s.store(s.div(s.splat(1.0), s.add(s.splat(1.0), e)), chunk);
                }
            }
            Scoring::Softmax => {
                let mut max = s.splat(f32::NEG_INFINITY);
                for chunk in chunks.iter() {
                    max = s.max(max, s.load(chunk));
                }
                let max = s.splat(s.max_lane(max));
                let mut sum = s.splat(0.0);
                for chunk in chunks.iter_mut() {
                    let e = exp(s, s.sub(s.load(chunk), max));
                    sum = s.add(sum, e);
                    s.store(e, chunk);
                }
                let sum = s.splat(s.sum(sum));
                for chunk in chunks {
                    s.store(s.div(s.load(chunk), sum), chunk);
                }
            }
        }
    }
}

/// `ln(1 + e^x)` without overflow.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Key of an excluded or already taken expert: below every number.
const TAKEN: i64 = i64::MIN;

/// An integer that orders as [`f32::total_cmp`] does, which gives NaN a place too.
fn ordered(value: f32) -> i64 {
    let bits = value.to_bits() as i32;
    i64::from(bits ^ ((bits >> 31) as u32 >> 1) as i32)
}

/// The inverse of [`ordered`].
fn value(key: i64) -> f32 {
    let bits = key as i32;
    f32::from_bits((bits ^ ((bits >> 31) as u32 >> 1) as i32) as u32)
}

/// Index of the largest key; the lowest of equals.
fn largest(keys: &[i64]) -> usize {
    let best = keys.iter().copied().max().unwrap_or(TAKEN);
    keys.iter().position(|&k| k == best).unwrap_or(0)
}

/// Writes the indices of the largest keys, best first, and marks them taken.
fn take_largest(keys: &mut [i64], into: &mut [u32]) {
    for slot in into {
        let best = largest(keys);
        keys[best] = TAKEN;
        *slot = best as u32;
    }
}

/// Excludes the groups that are not among the best `topk_group`.
fn mask_losing_groups(choice: &mut [i64], config: &GateConfig) {
    if config.n_group == 1 {
        return;
    }
    let size = choice.len() / config.n_group;
    let score = |group: &[i64]| {
        let best = largest(group);
        match config.group_score {
            GroupScore::Max => group[best],
            GroupScore::TopTwoSum => {
                let rest = group[..best].iter().chain(&group[best + 1..]).copied().max();
                rest.map_or(group[best], |second| ordered(value(group[best]) + value(second)))
            }
        }
    };
    let mut scores: Vec<i64> = choice.chunks_exact(size).map(score).collect();
    let mut winners = vec![0; config.topk_group];
    take_largest(&mut scores, &mut winners);
    for (g, group) in choice.chunks_exact_mut(size).enumerate() {
        if scores[g] != TAKEN {
            group.fill(TAKEN);
        }
    }
}

/// The scores of the chosen, normalised and scaled as the family asks.
fn weigh(scores: &[f32], ids: &[u32], config: &GateConfig, weights: &mut [f32]) {
    for (weight, &id) in weights.iter_mut().zip(ids) {
        *weight = scores[id as usize];
    }
    if config.norm_topk_prob {
        let sum = weights.iter().sum::<f32>() + 1e-20;
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    weights.iter_mut().for_each(|w| *w *= config.routed_scaling_factor);
}
