//! [`Sampler`]: the state of one request's penalties and random stream, and what it asks of `kernels::ops::sample`.
//!
//! The choice is made where the logits are, and is the same on every device: only the token comes back. Alternatives
//! with their log-probabilities are gathered on the host.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use kernels::Tensor;
use kernels::cpu::Candidate;
use kernels::ops::{self, Choice, LogitEdit, SampleBatch, SampleParams};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::{EngineError, SamplingParams};

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
    /// By token: biases, and occurrences in prompt and output where a penalty needs them.
    edits: BTreeMap<u32, LogitEdit>,
    /// Scratch of the CPU, reused across steps.
    candidates: Vec<Candidate>,
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
        let mut edits = BTreeMap::new();
        for &(token, bias) in &params.logit_bias {
            edit_of(&mut edits, token).bias += bias;
        }
        if params.repetition_penalty != 1.0 {
            prompt.iter().for_each(|&token| edit_of(&mut edits, token).seen = 1);
        }
        Ok(Self { rng: ChaCha8Rng::seed_from_u64(seed), seed, params, edits, candidates: Vec::new() })
    }

    /// The seed in use; passing it again repeats the run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Picks the next token from `logits` `[1, V]`, where they are.
    ///
    /// # Errors
    /// As [`Sampler::sample`], and any failure of the device since the last wait.
    pub fn choose(&mut self, logits: &Tensor) -> Result<Sampled, EngineError> {
        if self.params.logprobs.is_some_and(|count| count > 0) {
            return self.sample(&mut logits.read_f32()?);
        }
        let mut batch = SampleBatch::default();
        batch.push(self.row(), &self.edit_list());
        let choices = ops::sample(logits, &batch)?.read()?;
        self.accept(choices[0], Vec::new())
    }

    /// Picks the next token from `logits` `[V]`, which are left changed by bias and penalties.
    ///
    /// # Errors
    /// [`EngineError::Logits`] if a logit is NaN or positive infinity, or if none is left above negative infinity.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Sampled, EngineError> {
        let top = match self.params.logprobs {
            Some(count) if count > 0 && logits.iter().all(|v| *v < f32::INFINITY) => {
                top_logprobs(logits, count)
            }
            _ => Vec::new(),
        };
        let (row, edits) = (self.row(), self.edit_list());
        let choice = ops::sample_host(logits, &row, &edits, &mut self.candidates)?;
        self.accept(choice, top)
    }

    /// The parameters of the next step; a step that draws takes its number from the stream, whatever is filtered.
    fn row(&mut self) -> SampleParams {
        let p = &self.params;
        SampleParams {
            random: if p.temperature == 0.0 { 0 } else { self.rng.next_u64() },
            temperature: p.temperature,
            top_p: p.top_p,
            min_p: p.min_p,
            repetition_penalty: p.repetition_penalty,
            presence_penalty: p.presence_penalty,
            frequency_penalty: p.frequency_penalty,
            top_k: u32::try_from(p.top_k).unwrap_or(u32::MAX),
            logprob: u32::from(p.logprobs.is_some()),
        }
    }

    fn edit_list(&self) -> Vec<LogitEdit> {
        self.edits.values().copied().collect()
    }

    /// Notes the token for later penalties.
    fn accept(&mut self, choice: Choice, top_logprobs: Vec<(u32, f32)>) -> Result<Sampled, EngineError> {
        let (token, logprob) = match choice {
            Choice::Token { id, logprob } => (id, logprob),
            Choice::NoDistribution { token, logit } => {
                return Err(EngineError::Logits { token: token as usize, value: logit });
            }
        };
        let p = &self.params;
        if p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0 {
            let edit = edit_of(&mut self.edits, token);
            (edit.seen, edit.generated) = (1, edit.generated + 1);
        }
        Ok(Sampled { token, logprob: self.params.logprobs.map(|_| logprob), top_logprobs })
    }
}

fn edit_of(edits: &mut BTreeMap<u32, LogitEdit>, token: u32) -> &mut LogitEdit {
    edits.entry(token).or_insert(LogitEdit { token, ..LogitEdit::default() })
}

/// The `count` most probable tokens of the model's own distribution with their log-probabilities, ties by id.
fn top_logprobs(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
    let log_sum_exp = max + sum.ln() as f32;
    let mut top: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| -> Ordering { b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)) };
    let count = count.min(top.len());
    if count < top.len() {
        top.select_nth_unstable_by(count, order);
    }
    top.truncate(count);
    top.sort_unstable_by(order);
    top.into_iter().map(|(token, logit)| (token, logit - log_sum_exp)).collect()
}
