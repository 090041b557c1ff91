//! The engine thread: one job after the other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use kernels::Tensor;
use models::{Probe, StepContext};

use super::events::Reader;
use super::job::{Admitted, Job, Task};
use super::shared::{Message, Shared};
use super::{Constraint, ServiceOptions, TokenEvent};
use crate::{
    Engine, EngineError, FinishReason, GenerationStats, LogitRows, Sampled, Sampler, SamplingParams,
};

/// The body of the engine thread.
pub(crate) fn start(
    engine: Arc<Engine>,
    _options: &ServiceOptions,
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
) -> Result<impl FnOnce() + Send + 'static, EngineError> {
    let runner =
        Runner { engine, shared, inbox, waiting: VecDeque::new(), cancelled: BTreeSet::new(), stop: false };
    Ok(move || runner.run())
}

struct Runner {
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
    waiting: VecDeque<Admitted>,
    cancelled: BTreeSet<u64>,
    stop: bool,
}

/// Sums the hidden states that a forward ends with.
#[derive(Default)]
struct Mean {
    sum: Vec<f64>,
}

impl Probe for Mean {
    fn hidden(&mut self, name: &str, hidden: &Tensor) {
        if name == "final_norm" {
            let width = hidden.dim(1);
            self.sum.resize(width, 0.0);
            for (i, value) in hidden.to_vec_f32().into_iter().enumerate() {
                self.sum[i % width] += f64::from(value);
            }
        }
    }
}

impl Runner {
    fn run(mut self) {
        while !self.stop {
            let Some(mut job) = self.waiting.pop_front() else {
                self.shared.rest();
                match self.inbox.recv() {
                    Ok(message) => self.hear(message),
                    Err(_) => return,
                }
                continue;
            };
            self.shared.begin();
            let queued = job.accepted.elapsed();
            job.events.push(TokenEvent::Started { cached_tokens: 0, queued });
            self.shared.metrics(|metrics| metrics.request_queue_time.observe(queued.as_secs_f64()));
            if let Err(error) = self.job(&mut job, queued) {
                let is_request = !matches!(error, EngineError::Rank { .. });
                if !is_request {
                    self.shared.die(error.to_string());
                }
                self.shared.metrics(|metrics| metrics.request_success.error += 1);
                job.events.push(TokenEvent::Failed { error: error.to_string(), is_request });
            }
            self.deliver(&mut job);
            self.shared.end();
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Submit(job) => self.waiting.push_back(job),
            Message::Cancel(number) => {
                self.cancelled.insert(number);
            }
            // A stalled reader is waited for where it stalled.
            Message::Resume(number) => debug_assert!(!self.waiting.iter().any(|job| job.number == number)),
            Message::CancelAll => self.cancelled.extend(self.waiting.iter().map(|job| job.number)),
            Message::Stop => self.stop = true,
        }
    }

    /// Sends what is there, waiting for the reader if need be. False once nobody wants it.
    fn deliver(&mut self, job: &mut Admitted) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(message) => {
                    if matches!(message, Message::CancelAll) {
                        self.cancelled.insert(job.number);
                    }
                    self.hear(message);
                    continue;
                }
                Err(TryRecvError::Disconnected) => self.stop = true,
                Err(TryRecvError::Empty) => {}
            }
            self.shared.beat();
            match job.events.flush() {
                Reader::Ready => return !self.stop && !self.cancelled.contains(&job.number),
                Reader::Gone => return false,
                Reader::Stalled if self.stop => return false,
                Reader::Stalled => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn job(&mut self, job: &mut Admitted, queued: Duration) -> Result<(), EngineError> {
        let task = std::mem::replace(&mut job.task, Task::Embed { prompt: vec![], owner: 0, salt: 0 });
        match task {
            Task::Embed { prompt, .. } => {
                let embedding = self.embed(&prompt)?;
                job.events.push(TokenEvent::Embedding(embedding));
                Ok(())
            }
            Task::Generate(request) => {
                (0..request.n).try_for_each(|index| self.generate(job, &request, index, queued))
            }
        }
    }

    fn embed(&self, prompt: &[u32]) -> Result<Vec<f32>, EngineError> {
        let mut mean = Mean::default();
        let mut sequence = self.engine.sequence();
        for chunk in prompt.chunks(self.engine.prefill_chunk()) {
            let mut ctx = StepContext::with_probe(self.engine.device(), &mut mean);
            self.engine.extend(&mut ctx, &mut sequence, chunk, LogitRows::None)?;
        }
        let norm = mean.sum.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        Ok(mean.sum.iter().map(|v| (v / norm) as f32).collect())
    }

    fn generate(
        &mut self,
        admitted: &mut Admitted,
        job: &Job,
        index: usize,
        queued: Duration,
    ) -> Result<(), EngineError> {
        let request = &job.request;
        let seed = request.sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        let params = SamplingParams { seed, ..request.sampling.clone() };
        let mut sampler = Sampler::new(params, &request.prompt)?;
        let mut constraint = job.constraint.as_ref().map(|constraint| constraint.fork());
        let mut sequence = self.engine.sequence();
        let prompt_tokens = request.prompt.len();
        let mut stats =
            GenerationStats { prompt_tokens, queued, seed: sampler.seed(), ..GenerationStats::default() };
        let max_tokens = request.max_tokens.unwrap_or(self.engine.context_len() - prompt_tokens);
        let mut pending = request.prompt.clone();
        let reason = loop {
            let started = Instant::now();
            let count = pending.len().min(self.engine.prefill_chunk());
            let rows = if count == pending.len() { LogitRows::Last } else { LogitRows::None };
            let mut ctx = StepContext::new(self.engine.device());
            let output = self.engine.extend(&mut ctx, &mut sequence, &pending[..count], rows)?;
            pending.drain(..count);
            let Some(logits) = output.logits else { continue };
            let sampled = sample(&mut sampler, &mut constraint, &logits)?;
            if stats.time_to_first_token.is_none() {
                stats.prefill = started.elapsed();
                stats.time_to_first_token = Some(admitted.accepted.elapsed());
            } else {
                stats.decode += started.elapsed();
                stats.decode_steps += 1;
            }
            if request.stop_token_ids.contains(&sampled.token) {
                break FinishReason::Stop(sampled.token);
            }
            stats.generated_tokens += 1;
            pending.push(sampled.token);
            admitted.events.push(TokenEvent::Token { index, sampled });
            if !self.deliver(admitted) {
                break FinishReason::Cancelled;
            }
            if stats.generated_tokens == max_tokens {
                break FinishReason::Length;
            }
        };
        self.shared.metrics(|metrics| {
            metrics.request_success.count(reason);
            metrics.prompt_tokens += prompt_tokens as u64;
            metrics.generation_tokens += stats.generated_tokens as u64;
            metrics.e2e_request_latency.observe(admitted.accepted.elapsed().as_secs_f64());
        });
        admitted.events.push(TokenEvent::Finish { index, reason, stats });
        Ok(())
    }
}

fn sample(
    sampler: &mut Sampler,
    constraint: &mut Option<Box<dyn Constraint>>,
    logits: &Tensor,
) -> Result<Sampled, EngineError> {
    let mut logits = logits.to_vec_f32();
    if let Some(words) = constraint.as_mut().and_then(|constraint| constraint.allowed()) {
        for (token, logit) in logits.iter_mut().enumerate() {
            if words.get(token / 32).is_none_or(|word| word >> (token % 32) & 1 == 0) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    let sampled = sampler.sample(&mut logits)?;
    if let Some(constraint) = constraint {
        constraint.accept(sampled.token).map_err(|reason| EngineError::Constraint { reason })?;
    }
    Ok(sampled)
}
