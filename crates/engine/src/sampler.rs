//! [`Sampler`]: logits in, one token out; the state of one request's penalties and random stream.
//!
//! A step costs a few passes over the vocabulary and never sorts all of it: greedy is one scan, `top_k` is a
//! selection, and `top_p` sorts only as many leading candidates as it needs. The buffers live as long as the request.

use std::cmp::Ordering;
use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::{EngineError, SamplingParams};

/// Candidates that `top_p` sorts first; most distributions are decided within them.
const FIRST_SORTED: usize = 64;

/// The choice of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token id.
    pub token: u32,
    /// Its log-probability, if [`SamplingParams::logprobs`] asked for it.
    pub logprob: Option<f32>,
    /// The most probable tokens with their log-probabilities, best first; empty unless asked for.
    pub top_logprobs: Vec<(u32, f32)>,
}

/// Picks the tokens of one request.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    rng: ChaCha8Rng,
    seed: u64,
    /// Occurrences of each token in prompt and output; kept only where a penalty needs them.
    seen: HashMap<u32, Seen>,
    /// `(weight, id)` of the tokens still in play, reused across steps.
    candidates: Vec<Candidate>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    generated: u32,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// The processed logit, later the unnormalised probability.
    weight: f32,
    token: u32,
}

impl Candidate {
    /// Most probable first, ties by id, so that every set is unique.
    fn order(a: &Self, b: &Self) -> Ordering {
        b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
    }
}

impl Sampler {
    /// A sampler for one request. `params` must have passed [`SamplingParams::validate`].
    ///
    /// # Errors
    /// [`EngineError::Entropy`] if no seed is given and the operating system has no randomness to offer.
    pub fn new(params: SamplingParams, prompt: &[u32]) -> Result<Self, EngineError> {
        let seed = match params.seed {
            Some(seed) => seed,
            None => ChaCha8Rng::try_from_os_rng()
                .map_err(|source| EngineError::Entropy { reason: source.to_string() })?
                .next_u64(),
        };
        let mut seen = HashMap::new();
        if params.repetition_penalty != 1.0 {
            seen.extend(prompt.iter().map(|&token| (token, Seen::default())));
        }
        Ok(Self { rng: ChaCha8Rng::seed_from_u64(seed), seed, params, seen, candidates: Vec::new() })
    }

    /// The seed in use; passing it again repeats the run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Picks the next token from `logits` `[V]`, which serve as scratch and are left changed.
    ///
    /// # Errors
    /// [`EngineError::Logits`] if a logit is NaN or positive infinity, or if none is left above negative infinity.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Sampled, EngineError> {
        if let Some(token) = logits.iter().position(|v| v.is_nan() || *v == f32::INFINITY) {
            return Err(EngineError::Logits { token, value: logits[token] });
        }
        let raw = self.params.logprobs.map(|count| RawLogprobs::new(logits, count));
        // Read before bias and penalties change the logits in place, looked up once the token is known.
        let unbiased = raw.is_some().then(|| logits.to_vec());
        self.bias_and_penalise(logits);
        let token = match self.params.temperature {
            0.0 => argmax(logits),
            _ => self.draw(logits),
        };
        let Some(token) = token else {
            let token = argmax(logits).unwrap_or(0) as usize;
            return Err(EngineError::Logits { token, value: logits.get(token).copied().unwrap_or(f32::NAN) });
        };
        if self.needs_history() {
            self.seen.entry(token).or_default().generated += 1;
        }
        let logprob = match (&raw, &unbiased) {
            (Some(raw), Some(unbiased)) => Some(unbiased[token as usize] - raw.log_sum_exp),
            _ => None,
        };
        Ok(Sampled { token, logprob, top_logprobs: raw.map(|r| r.top).unwrap_or_default() })
    }

    fn needs_history(&self) -> bool {
        let p = &self.params;
        p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0
    }

    fn bias_and_penalise(&self, logits: &mut [f32]) {
        let p = &self.params;
        for &(token, bias) in &p.logit_bias {
            logits[token as usize] += bias;
        }
        // Each entry touches its own logit, so the map's order has no influence.
        for (&token, seen) in &self.seen {
            let logit = &mut logits[token as usize];
            *logit = if *logit > 0.0 { *logit / p.repetition_penalty } else { *logit * p.repetition_penalty };
            if seen.generated > 0 {
                *logit -= p.frequency_penalty * seen.generated as f32 + p.presence_penalty;
            }
        }
    }

    /// One draw from the filtered distribution of processed logits; `None` if it has no mass to draw from.
    fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        let Self { params, candidates, rng, .. } = self;
        filter(params, logits, candidates);
        let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
        if !(total.is_finite() && total > 0.0) {
            return None;
        }
        // 53 bits in [0, 1): one draw per token, whatever was filtered.
        let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * total;
        for candidate in &*candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        // Rounding can leave a trace above zero after the last candidate.
        candidates.iter().rev().find(|c| c.weight > 0.0).map(|c| c.token)
    }
}

/// Fills `candidates` with the tokens that temperature, `min_p`, `top_k` and `top_p` keep, each with its
/// unnormalised probability.
fn filter(params: &SamplingParams, logits: &[f32], candidates: &mut Vec<Candidate>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let floor = params.min_p;
    candidates.clear();
    candidates.extend(logits.iter().zip(0u32..).filter_map(|(&logit, token)| {
        // A weight relative to the best token: `min_p` is then a plain comparison.
        let weight = ((logit - max) / params.temperature).exp();
        (weight >= floor && logit > f32::NEG_INFINITY).then_some(Candidate { weight, token })
    }));
    if params.top_k > 0 && params.top_k < candidates.len() {
        candidates.select_nth_unstable_by(params.top_k - 1, Candidate::order);
        candidates.truncate(params.top_k);
        // Selection leaves an arbitrary order; ids make the draw independent of the algorithm.
        candidates.sort_unstable_by_key(|c| c.token);
    }
    if params.top_p < 1.0 {
        keep_nucleus(candidates, f64::from(params.top_p));
    }
}

/// Keeps the smallest leading set whose probability reaches `top_p`; at least one candidate stays.
fn keep_nucleus(candidates: &mut Vec<Candidate>, top_p: f64) {
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let (mut sorted, mut sum, mut prefix) = (0, 0.0, FIRST_SORTED);
    while sorted < candidates.len() {
        let end = prefix.min(candidates.len());
        if end < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(end - sorted - 1, Candidate::order);
        }
        candidates[sorted..end].sort_unstable_by(Candidate::order);
        for i in sorted..end {
            sum += f64::from(candidates[i].weight);
            if sum >= top_p * total {
                candidates.truncate(i + 1);
                return;
            }
        }
        (sorted, prefix) = (end, prefix * 8);
    }
}

/// The lowest id among the largest logits; `None` if every token is banned.
fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (&logit, token) in logits.iter().zip(0u32..) {
        if logit > best.0 {
            best = (logit, Some(token));
        }
    }
    best.1
}

/// Log-probabilities of the model's own distribution.
struct RawLogprobs {
    log_sum_exp: f32,
    top: Vec<(u32, f32)>,
}

impl RawLogprobs {
    fn new(logits: &[f32], count: usize) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
        let log_sum_exp = max + sum.ln() as f32;
        let mut all: Vec<Candidate> =
            logits.iter().zip(0u32..).map(|(&weight, token)| Candidate { weight, token }).collect();
        let count = count.min(all.len());
        if count > 0 {
            all.select_nth_unstable_by(count - 1, Candidate::order);
        }
        all.truncate(count);
        all.sort_unstable_by(Candidate::order);
        Self { log_sum_exp, top: all.iter().map(|c| (c.token, c.weight - log_sum_exp)).collect() }
    }
}
