//! [`LiveJob`] and [`Lives`]: where the jobs on the engine thread stand, and each of their sequences.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::SequenceId;

use super::Constraint;
use super::events::EventSender;
use super::job::Job;
use super::states::States;
use crate::ranks::panic_words;
use crate::{EngineError, FinishReason, GenerationStats, Sampled, Sampler, SamplingParams};

/// A job that was taken and is not over.
pub(crate) struct LiveJob {
    pub(crate) events: EventSender,
    pub(crate) accepted: Instant,
    /// How long it waited for its first step; `None` before that.
    pub(crate) queued: Option<Duration>,
    /// Its sequences that are not over.
    pub(crate) sequences: Vec<SequenceId>,
    /// Its reader does not read.
    pub(crate) is_stalled: bool,
}

/// The sequences that are not over.
#[derive(Default)]
pub(crate) struct Lives {
    pub(crate) continuations: HashMap<SequenceId, Box<Continuation>>,
    pub(crate) means: HashMap<SequenceId, Mean>,
    pub(crate) states: States,
}

impl Lives {
    /// The number of the job that a sequence belongs to.
    pub(crate) fn job_of(&self, id: SequenceId) -> Option<u64> {
        let continuation = self.continuations.get(&id).map(|continuation| continuation.job);
        continuation.or_else(|| self.means.get(&id).map(|mean| mean.job))
    }

    pub(crate) fn remove(&mut self, id: SequenceId) {
        self.continuations.remove(&id);
        self.means.remove(&id);
        self.states.remove(id);
    }
}

/// One continuation of a job's prompt.
pub(crate) struct Continuation {
    job: u64,
    /// Its number within the job.
    pub(crate) index: usize,
    sampler: Sampler,
    constraint: Option<Box<dyn Constraint>>,
    stop_token_ids: Arc<[u32]>,
    max_tokens: usize,
    pub(crate) stats: GenerationStats,
    last_token: Option<Instant>,
}

/// What a token means for its continuation.
pub(crate) struct Advance {
    /// The token, unless it is one that only ends.
    pub(crate) token: Option<Sampled>,
    pub(crate) finish: Option<FinishReason>,
    /// Since the token before it, if there is one.
    pub(crate) gap: Option<Duration>,
}

impl Continuation {
    /// The continuations of job `number`, at most `max_tokens` long each.
    pub(crate) fn all(number: u64, job: &mut Job, max_tokens: usize) -> Result<Vec<Self>, EngineError> {
        let Job { request, n, constraint, .. } = job;
        let stop_token_ids: Arc<[u32]> = request.stop_token_ids.as_slice().into();
        let mut continuations = Vec::with_capacity(*n);
        for index in 0..*n {
            let seed = request.sampling.seed.map(|seed| seed.wrapping_add(index as u64));
            let sampler = Sampler::new(SamplingParams { seed, ..request.sampling.clone() }, &request.prompt)?;
            let prompt_tokens = request.prompt.len();
            let is_last = index + 1 == *n;
            continuations.push(Self {
                job: number,
                index,
                stats: GenerationStats { prompt_tokens, seed: sampler.seed(), ..GenerationStats::default() },
                sampler,
                constraint: if is_last { constraint.take() } else { fork(constraint.as_deref())? },
                stop_token_ids: Arc::clone(&stop_token_ids),
                max_tokens,
                last_token: None,
            });
        }
        Ok(continuations)
    }

    /// What picks the next token, and which it may pick; a constraint that fails is the continuation's own error.
    pub(crate) fn row(&mut self) -> (&mut Sampler, Result<Option<&[u32]>, EngineError>) {
        let Self { sampler, constraint, .. } = self;
        (sampler, constraint.as_mut().map_or(Ok(None), |constraint| guarded(|| Ok(constraint.allowed()))))
    }

    /// Whether not every token may come.
    pub(crate) fn is_constrained(&self) -> bool {
        self.constraint.is_some()
    }

    /// Takes note of a token that a step of `elapsed` chose, `None` for further tokens of the same step; the job was
    /// accepted at `accepted`.
    pub(crate) fn advance(
        &mut self,
        sampled: Sampled,
        accepted: Instant,
        elapsed: Option<Duration>,
    ) -> Result<Advance, EngineError> {
        let now = Instant::now();
        let gap = self.last_token.replace(now).map(|last| now.duration_since(last));
        if gap.is_none() {
            self.stats.prefill += elapsed.unwrap_or_default();
            self.stats.time_to_first_token = Some(accepted.elapsed());
        } else if let Some(elapsed) = elapsed {
            self.stats.decode += elapsed;
            self.stats.decode_steps += 1;
        }
        if self.stop_token_ids.contains(&sampled.token) {
            return Ok(Advance { finish: Some(FinishReason::Stop(sampled.token)), token: None, gap });
        }
        if let Some(constraint) = &mut self.constraint {
            guarded(|| constraint.accept(sampled.token))?;
        }
        self.stats.generated_tokens += 1;
        let finish = (self.stats.generated_tokens == self.max_tokens).then_some(FinishReason::Length);
        Ok(Advance { token: Some(sampled), finish, gap })
    }

    /// Books a step of `elapsed` that computed something of it and chose no token.
    pub(crate) fn book(&mut self, elapsed: Duration) {
        let is_first = self.last_token.is_none();
        *if is_first { &mut self.stats.prefill } else { &mut self.stats.decode } += elapsed;
    }
}

fn fork(constraint: Option<&dyn Constraint>) -> Result<Option<Box<dyn Constraint>>, EngineError> {
    constraint.map(|constraint| guarded(|| Ok(constraint.fork()))).transpose()
}

/// A constraint is somebody else's code: its panic is its job's failure.
fn guarded<R>(call: impl FnOnce() -> Result<R, String>) -> Result<R, EngineError> {
    let result = catch_unwind(AssertUnwindSafe(call));
    let result = result.unwrap_or_else(|panic| Err(format!("panicked: {}", panic_words(&*panic))));
    result.map_err(|reason| EngineError::Constraint { reason })
}

/// The mean of a prompt's hidden states, in the making.
#[derive(Debug, Default)]
pub(crate) struct Mean {
    job: u64,
    /// Tokens of the prompt.
    total: usize,
    /// Of those, how many are in `sum`.
    count: usize,
    sum: Vec<f64>,
}

impl Mean {
    /// That of job `number` with a prompt of `total` tokens.
    pub(crate) fn new(number: u64, total: usize) -> Self {
        Self { job: number, total, ..Self::default() }
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        self.total
    }

    /// Adds `count` rows `[count, D]`.
    pub(crate) fn add(&mut self, rows: &[f32], count: usize) {
        let width = rows.len() / count.max(1);
        self.sum.resize(width, 0.0);
        for row in rows.chunks_exact(width.max(1)) {
            self.sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        self.count += count;
    }

    /// Begins again.
    pub(crate) fn clear(&mut self) {
        self.sum.clear();
        self.count = 0;
    }

    /// The mean, scaled to length 1, once all rows are in. The scaling makes the division by the count needless.
    pub(crate) fn finish(&self) -> Option<Result<Vec<f32>, EngineError>> {
        if self.count < self.total {
            return None;
        }
        let norm = self.sum.iter().map(|value| value * value).sum::<f64>().sqrt();
        if norm == 0.0 || !norm.is_finite() {
            return Some(Err(EngineError::Embedding { norm }));
        }
        Some(Ok(self.sum.iter().map(|value| (value / norm) as f32).collect()))
    }
}
