//! [`Generation`]: one request being run, a step at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kernels::Tensor;
use models::StepContext;

use crate::{Engine, EngineError, GenerationStats, LogitRows, Request, Sampled, Sampler, Sequence};

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model produced this stop token, which is not part of the output.
    Stop(u32),
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// Somebody cancelled it.
    Cancelled,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A chunk of the prompt was computed.
    Prefill {
        /// Prompt tokens in the cache now.
        done: usize,
        /// Prompt tokens in all.
        total: usize,
    },
    /// A token was sampled.
    Token(Sampled),
    /// The generation is over; nothing follows.
    Finish(FinishReason),
}

/// Cancels a generation from anywhere; it ends before its next step.
#[derive(Debug, Clone, Default)]
pub struct CancelHandle {
    cancelled: Arc<AtomicBool>,
}

impl CancelHandle {
    /// Asks the generation to end.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// True once [`CancelHandle::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A running request. Iterate over it, or call [`Generation::step`]; dropping it frees its KV blocks.
#[derive(Debug)]
pub struct Generation {
    engine: Arc<Engine>,
    sequence: Sequence,
    /// Tokens that are known but not in the cache: the rest of the prompt, then the last sampled token.
    pending: Vec<u32>,
    sampler: Sampler,
    stop_token_ids: Vec<u32>,
    max_tokens: usize,
    finished: Option<FinishReason>,
    /// Set once [`Step::Finish`] was handed out or a step failed.
    over: bool,
    cancel: CancelHandle,
    stats: GenerationStats,
    accepted: Instant,
}

impl Generation {
    /// `request` must have been validated.
    pub(crate) fn new(
        engine: Arc<Engine>,
        mut sequence: Sequence,
        request: Request,
    ) -> Result<Self, EngineError> {
        let accepted = Instant::now();
        let sampler = Sampler::new(request.sampling, &request.prompt)?;
        let cached_tokens = sequence.reuse_for(&request.prompt);
        let prompt_tokens = request.prompt.len();
        let stats =
            GenerationStats { prompt_tokens, cached_tokens, seed: sampler.seed(), ..Default::default() };
        Ok(Self {
            pending: request.prompt[cached_tokens..].to_vec(),
            max_tokens: request.max_tokens.unwrap_or(engine.context_len() - prompt_tokens),
            stop_token_ids: request.stop_token_ids,
            engine,
            sequence,
            sampler,
            finished: None,
            over: false,
            cancel: CancelHandle::default(),
            stats,
            accepted,
        })
    }

    /// Runs the next step; `None` once the generation is over.
    ///
    /// # Errors
    /// Any [`EngineError`]; the generation is over after one.
    pub fn step(&mut self) -> Option<Result<Step, EngineError>> {
        if self.over {
            return None;
        }
        if self.finished.is_none() && self.cancel.is_cancelled() {
            self.finished = Some(FinishReason::Cancelled);
        }
        let step = match self.finished {
            Some(reason) => Ok(Step::Finish(reason)),
            None => self.run(),
        };
        self.over = matches!(step, Ok(Step::Finish(_)) | Err(_));
        Some(step)
    }

    /// A handle that ends this generation from another thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Counts and times so far.
    pub fn stats(&self) -> GenerationStats {
        self.stats
    }

    /// Ends the generation and keeps its cache for [`Engine::resume`].
    pub fn into_sequence(self) -> Sequence {
        self.sequence
    }

    fn run(&mut self) -> Result<Step, EngineError> {
        let started = Instant::now();
        let chunk = self.pending.len().min(self.engine.prefill_chunk());
        let mut ctx = StepContext::new(self.engine.device());
        let rows = if chunk == self.pending.len() { LogitRows::Last } else { LogitRows::None };
        let (sampler, tokens) = (&mut self.sampler, &self.pending[..chunk]);
        let choose = |logits: &Tensor| sampler.choose(logits);
        let sampled = self.engine.extend_with(&mut ctx, &mut self.sequence, tokens, rows, choose)?;
        self.pending.drain(..chunk);
        let Some(sampled) = sampled.transpose()? else {
            self.stats.prefill += started.elapsed();
            return Ok(Step::Prefill { done: self.sequence.len(), total: self.stats.prompt_tokens });
        };
        self.record(started.elapsed());
        if self.stop_token_ids.contains(&sampled.token) {
            let reason = FinishReason::Stop(sampled.token);
            self.finished = Some(reason);
            return Ok(Step::Finish(reason));
        }
        self.stats.generated_tokens += 1;
        if self.stats.generated_tokens == self.max_tokens {
            self.finished = Some(FinishReason::Length);
        }
        self.pending.push(sampled.token);
        Ok(Step::Token(sampled))
    }

    /// Books the time of a step that sampled a token.
    fn record(&mut self, elapsed: Duration) {
        if self.stats.time_to_first_token.is_none() {
            self.stats.prefill += elapsed;
            self.stats.time_to_first_token = Some(self.accepted.elapsed());
        } else {
            self.stats.decode += elapsed;
            self.stats.decode_steps += 1;
        }
    }
}

impl Iterator for Generation {
    type Item = Result<Step, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step()
    }
}
