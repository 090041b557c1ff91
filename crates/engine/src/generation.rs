//! [`Generation`]: one request being run, a step at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kernels::Tensor;
use models::StepContext;

use crate::draft::{DraftChunk, DraftInput};
use crate::speculation::{Drafter, Speculation, ngram};
use crate::state_slots::StateSlot;
use crate::step::StepChunk;
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
    /// What may follow them.
    guesses: Vec<u32>,
    /// What the last step did beyond the first thing.
    ready: VecDeque<Step>,
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
            guesses: Vec::new(),
            ready: VecDeque::new(),
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

    /// What happens next; `None` once the generation is over. Runs a step of the model, unless the last one gave more than
    /// one token.
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
        let step = match (self.ready.pop_front(), self.finished) {
            (Some(step), _) => Ok(step),
            (None, Some(reason)) => Ok(Step::Finish(reason)),
            (None, None) => self.run(),
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
        let start = self.sequence.len();
        let chunk = self.pending.len().min(self.engine.prefill_chunk());
        let is_last = chunk == self.pending.len();
        // Guesses only ever follow a single pending token.
        let guesses = std::mem::take(&mut self.guesses);
        let rows = match (is_last, guesses.is_empty()) {
            (false, _) => LogitRows::None,
            (true, true) => LogitRows::Last,
            (true, false) => LogitRows::All,
        };
        let mut ctx = StepContext::new(self.engine.device());
        let tokens = [&self.pending[..chunk], &guesses].concat();
        let sampler = &mut self.sampler;
        let choose = |logits: &Tensor| sampler.choose_after(logits, &guesses);
        let sampled = self.engine.extend_with(&mut ctx, &mut self.sequence, &tokens, rows, choose)?;
        let sampled = sampled.transpose()?.unwrap_or_default();
        // Of the cache what a wrong guess wrote is not kept.
        let accepted = sampled.len().saturating_sub(1);
        self.sequence.truncate(start + chunk + accepted);
        self.pending.drain(..chunk);
        self.pending.extend(sampled.last().map(|sampled| sampled.token));
        (self.stats.guessed_tokens, self.stats.accepted_tokens) =
            (self.stats.guessed_tokens + guesses.len(), self.stats.accepted_tokens + accepted);
        self.take(sampled);
        self.guess(start)?;
        self.record(started.elapsed(), is_last);
        Ok(self
            .ready
            .pop_front()
            .unwrap_or(Step::Prefill { done: self.sequence.len(), total: self.stats.prompt_tokens }))
    }

    /// Lines up what was sampled, as far as the generation goes.
    fn take(&mut self, sampled: Vec<Sampled>) {
        for sampled in sampled {
            if self.finished.is_some() {
                break;
            }
            if self.stop_token_ids.contains(&sampled.token) {
                let reason = FinishReason::Stop(sampled.token);
                self.finished = Some(reason);
                self.ready.push_back(Step::Finish(reason));
                break;
            }
            self.stats.generated_tokens += 1;
            if self.stats.generated_tokens == self.max_tokens {
                self.finished = Some(FinishReason::Length);
            }
            self.ready.push_back(Step::Token(sampled));
        }
    }

    /// Guesses what follows a step whose rows began at `start`, as far as tokens are still wanted.
    fn guess(&mut self, start: usize) -> Result<(), EngineError> {
        let Some(Speculation { drafter, num_tokens }) = self.engine.speculation() else { return Ok(()) };
        // The token after the last guess comes from its row.
        let wanted = self.max_tokens - self.stats.generated_tokens;
        let is_decode = self.pending.len() == 1 && self.stats.generated_tokens > 0 && self.finished.is_none();
        let count = if is_decode { num_tokens.min(wanted.saturating_sub(1)) } else { 0 };
        let known = || [self.sequence.tokens(), &self.pending].concat();
        self.guesses = match drafter {
            Drafter::Ngram => ngram(&known(), count),
            Drafter::Mtp => {
                let tokens = known()[start + 1..self.sequence.len() + 1].to_vec();
                let blocks = self.sequence.table.blocks().to_vec();
                let slot = self.sequence.slot.as_ref().map(StateSlot::number);
                let chunk = StepChunk { tokens, start, blocks, slot };
                let chunks = vec![DraftChunk { chunk, first_row: 0, count }];
                self.engine.draft(DraftInput { chunks, ..DraftInput::default() })?.swap_remove(0)
            }
        };
        if !self.sequence.has_room(self.guesses.len() + 1) {
            self.guesses.clear();
        }
        Ok(())
    }

    /// Books the time of a step, which `samples` tokens unless more of the prompt follows.
    fn record(&mut self, elapsed: Duration, samples: bool) {
        if self.stats.time_to_first_token.is_none() {
            self.stats.prefill += elapsed;
            self.stats.time_to_first_token = samples.then(|| self.accepted.elapsed());
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
