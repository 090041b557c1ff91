//! [`Sampler`]: the state of one request's penalties and random stream, and what it asks of `kernels::ops::sample`;
//! [`sample_rows`]: one call for all that a step samples.
//!
//! The choice is made where the logits are, and is the same on every device: only the token comes back. Alternatives
//! with their log-probabilities are gathered on the host.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

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
    /// The numbers of the step that is under way, one for each token it may choose; kept, so that a step that fails and
    /// is run again draws the same, and so that a token draws the same whether it was guessed or not.
    drawn: VecDeque<u64>,
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
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Ok(Self { rng, drawn: VecDeque::new(), seed, params, edits, candidates: Vec::new() })
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
        Ok(self.choose_after(logits, &[])?.swap_remove(0))
    }

    /// Picks the tokens that follow from `logits` `[1 + guesses, V]`, whose rows after the first were computed from the
    /// `guesses` before them: one token, and one more for each guess that was right. They are what
    /// [`Sampler::choose`] picks step by step.
    ///
    /// # Errors
    /// As [`Sampler::choose`].
    pub fn choose_after(&mut self, logits: &Tensor, guesses: &[u32]) -> Result<Vec<Sampled>, EngineError> {
        let mut rows = [SampleRow { sampler: self, allowed: None, guesses }];
        sample_rows(logits, &mut rows)?.swap_remove(0)
    }

    /// Picks the next token from `logits` `[V]`, which are left changed by bias and penalties.
    ///
    /// # Errors
    /// [`EngineError::Logits`] if a logit is NaN or positive infinity, or if none is left above negative infinity.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Sampled, EngineError> {
        let top = match self.alternatives() {
            Some(count) if logits.iter().all(|v| *v < f32::INFINITY) => top_logprobs(logits, count),
            _ => Vec::new(),
        };
        let (row, edits) = (self.row(0), list(&self.edits));
        let choice = ops::sample_host(logits, &row, &edits, &mut self.candidates)?;
        self.accept(choice, top)
    }

    /// The parameters of the token `ahead` of the next one; a token that is drawn takes its number from the stream,
    /// whatever is filtered.
    fn row(&mut self, ahead: usize) -> SampleParams {
        let p = &self.params;
        let mut draw = || {
            while self.drawn.len() <= ahead {
                self.drawn.push_back(self.rng.next_u64());
            }
            self.drawn[ahead]
        };
        SampleParams {
            random: if p.temperature == 0.0 { 0 } else { draw() },
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

    /// How many alternatives each step reports, if any.
    fn alternatives(&self) -> Option<usize> {
        self.params.logprobs.filter(|&count| count > 0)
    }

    /// Adds the row of the next token to `batch`, and of one more behind each guess, as if it were right.
    fn push_rows(&mut self, guesses: &[u32], batch: &mut SampleBatch) {
        batch.push(self.row(0), &list(&self.edits));
        let mut edits = self.edits.clone();
        for (ahead, &guess) in (1..).zip(guesses) {
            self.params.count(&mut edits, guess);
            batch.push(self.row(ahead), &list(&edits));
        }
    }

    /// Notes the token for later penalties.
    fn accept(&mut self, choice: Choice, top_logprobs: Vec<(u32, f32)>) -> Result<Sampled, EngineError> {
        let (token, logprob) = match choice {
            Choice::Token { id, logprob } => (id, logprob),
            Choice::NoDistribution { token, logit } => {
                return Err(EngineError::Logits { token: token as usize, value: logit });
            }
        };
        self.drawn.pop_front();
        self.params.count(&mut self.edits, token);
        Ok(Sampled { token, logprob: self.params.logprobs.map(|_| logprob), top_logprobs })
    }
}

impl SamplingParams {
    /// Notes a generated token in `edits`, if a penalty counts it.
    fn count(&self, edits: &mut BTreeMap<u32, LogitEdit>, token: u32) {
        if self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 {
            let edit = edit_of(edits, token);
            (edit.seen, edit.generated) = (1, edit.generated + 1);
        }
    }
}

/// Rows of a step's logits and who picks from them: one, and one more behind each guess.
pub(crate) struct SampleRow<'a> {
    pub(crate) sampler: &'a mut Sampler,
    /// The tokens that may be picked, see [`crate::Constraint::allowed`]; nothing is guessed then.
    pub(crate) allowed: Option<&'a [u32]>,
    /// What the rows after the first were computed from.
    pub(crate) guesses: &'a [u32],
}

impl SampleRow<'_> {
    fn len(&self) -> usize {
        1 + self.guesses.len()
    }

    /// The tokens that hold, of the choices in these rows: those that no wrong guess comes before.
    fn accept(
        &mut self,
        choices: &[Choice],
        mut top: impl Iterator<Item = Vec<(u32, f32)>>,
    ) -> Result<Vec<Sampled>, EngineError> {
        let mut sampled = Vec::with_capacity(self.len());
        for (row, &choice) in choices.iter().enumerate() {
            let top = if self.sampler.alternatives().is_some() { top.next() } else { None };
            let token = match (choice, self.allowed) {
                (Choice::NoDistribution { logit: f32::NEG_INFINITY, .. }, Some(_)) => {
                    let reason = "none of the tokens it allows can come".into();
                    return Err(EngineError::Constraint { reason });
                }
                _ => self.sampler.accept(choice, top.unwrap_or_default())?,
            };
            let is_right = self.guesses.get(row) == Some(&token.token);
            sampled.push(token);
            if !is_right {
                break;
            }
        }
        Ok(sampled)
    }
}

/// Picks tokens from the first rows of `logits` `[R, V]`, where they are; what is behind them is ignored. At least one for
/// each of `rows`. What one of them lacks is its own error.
pub(crate) fn sample_rows(
    logits: &Tensor,
    rows: &mut [SampleRow<'_>],
) -> Result<Vec<Result<Vec<Sampled>, EngineError>>, EngineError> {
    let mut batch = SampleBatch::default();
    for row in &mut *rows {
        row.sampler.push_rows(row.guesses, &mut batch);
    }
    if rows.iter().any(|row| row.allowed.is_some()) {
        batch.allow(mask(rows, logits.dim(1)));
    }
    let choices = ops::sample(logits, &batch)?.read()?;
    let alternatives = alternatives(logits, rows)?;
    let (mut choices, mut alternatives) = (&choices[..], &alternatives[..]);
    let sampled = rows.iter_mut().map(|row| {
        let mine = choices.split_off(..row.len()).unwrap_or_default();
        let count = row.sampler.alternatives();
        let logits = count.and_then(|_| alternatives.split_off(..row.len())).unwrap_or_default();
        row.accept(mine, logits.iter().map(|logits| top_logprobs(logits, count.unwrap_or(0))))
    });
    Ok(sampled.collect())
}

/// The masks of all rows of a step `[R, ceil(V / 32)]`; a row without one allows everything.
fn mask(rows: &[SampleRow<'_>], vocab: usize) -> Vec<u32> {
    let width = vocab.div_ceil(32);
    let count: usize = rows.iter().map(SampleRow::len).sum();
    let mut words = Vec::with_capacity(count * width);
    for row in rows {
        let end = words.len() + row.len() * width;
        match row.allowed {
            // A tokenizer may know more ids than the model, or fewer.
            Some(allowed) => {
                words.extend(allowed.iter().take(width));
                words.resize(end, 0);
            }
            None => words.resize(end, u32::MAX),
        }
    }
    words
}

/// The logits, on the host, of those rows that report alternatives.
fn alternatives(logits: &Tensor, rows: &[SampleRow<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
    let of_rows = rows.iter().flat_map(|row| std::iter::repeat_n(row.sampler.alternatives(), row.len()));
    let wanted: Vec<u32> = (0..).zip(of_rows).filter_map(|(i, wanted)| wanted.map(|_| i)).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let index = Tensor::from_u32(&logits.device(), &[wanted.len()], &wanted)?;
    let values = ops::gather_rows(logits, &index)?.read_f32()?;
    Ok(values.chunks_exact(logits.dim(1)).map(<[f32]>::to_vec).collect())
}

fn list(edits: &BTreeMap<u32, LogitEdit>) -> Vec<LogitEdit> {
    edits.values().copied().collect()
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
