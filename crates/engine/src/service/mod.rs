//! [`Service`]: many requests at once over one engine, from any thread.
//!
//! One thread owns the scheduling and steps the model. Jobs reach it over a queue that refuses rather than grows, and
//! every job gets its events over a bounded channel of its own: a reader who does not read holds up nobody else, and
//! one who goes away ends the job within a step.

mod batch;
mod events;
mod job;
mod live;
mod metrics;
mod runner;
mod shared;
mod states;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use events::{TokenEvent, TokenEvents};
pub use job::{Constraint, Job};
pub use metrics::{FinishCounts, Histogram, ServiceMetrics};
pub use scheduler::PrefixMisses;

use job::{Admitted, Task};
use runner::Runner;
use shared::{Message, Shared};

use crate::{Engine, EngineError, Request};

/// Sizes of a [`Service`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Most sequences of a step, and so most siblings of a job.
    pub max_num_seqs: usize,
    /// Most tokens of a step: at least `max_num_seqs`, so that none is left out, and at most the engine's
    /// `prefill_chunk`, which is what memory was planned for.
    pub max_num_batched_tokens: usize,
    /// Most jobs that wait for their first step; the next one is refused.
    pub max_waiting: usize,
    /// Keeps the blocks of finished prompts and answers, for prompts that begin alike.
    pub prefix_cache: bool,
    /// Events that wait for a job's reader; when they are so many, the job pauses.
    pub event_capacity: usize,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            max_num_seqs: 64,
            max_num_batched_tokens: 256,
            max_waiting: 256,
            prefix_cache: true,
            event_capacity: 64,
        }
    }
}

impl ServiceOptions {
    fn validate(&self, prefill_chunk: usize) -> Result<(), EngineError> {
        let sizes = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_waiting", self.max_waiting),
            ("event_capacity", self.event_capacity),
        ];
        if let Some((field, found)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(EngineError::options(field, "at least 1", found));
        }
        let tokens = self.max_num_seqs..=prefill_chunk;
        if !tokens.contains(&self.max_num_batched_tokens) {
            let (least, most) = tokens.into_inner();
            let expected =
                format!("{least}, which is max_num_seqs, to {most}, which is the engine's prefill_chunk");
            return Err(EngineError::options(
                "max_num_batched_tokens",
                expected,
                self.max_num_batched_tokens,
            ));
        }
        Ok(())
    }
}

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// It cannot be run; see [`EngineError::Request`].
    #[error(transparent)]
    Invalid(#[from] EngineError),
    /// As many jobs wait as may.
    #[error("the queue is full: {waiting} requests wait of {max_waiting} that may")]
    QueueFull {
        /// Jobs that wait for their first step.
        waiting: usize,
        /// [`ServiceOptions::max_waiting`].
        max_waiting: usize,
    },
    /// [`Service::drain`] was called.
    #[error("the engine finishes what it has and takes nothing more")]
    Draining,
    /// The engine runs nothing any more.
    #[error("the engine is dead: {reason}")]
    Dead {
        /// What killed it.
        reason: String,
    },
}

/// How a service is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// False once the engine cannot run anything any more.
    pub alive: bool,
    /// What killed it.
    pub error: Option<String>,
    /// How long ago the engine thread last began a turn; zero while it has nothing to do. Much more than a step takes
    /// means that it hangs.
    pub since_last_step: Duration,
    /// Jobs that had their first step.
    pub running: usize,
    /// Jobs that wait for it.
    pub waiting: usize,
    /// Whether [`Service::drain`] was called.
    pub draining: bool,
}

/// A handle on the engine thread. Clones share it; when the last one is dropped, what still runs is cancelled and the
/// thread ends.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Engine>,
    options: ServiceOptions,
    shared: Arc<Shared>,
    messages: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Service {
    /// Starts the thread that steps `engine`. Others may go on using the engine; they share its blocks and its time.
    ///
    /// # Errors
    /// [`EngineError::Options`] for a size out of range, [`EngineError::Thread`] if the system has no thread to give.
    pub fn start(engine: Arc<Engine>, options: &ServiceOptions) -> Result<Self, EngineError> {
        options.validate(engine.prefill_chunk())?;
        let (messages, inbox) = std::sync::mpsc::channel();
        let shared = Arc::new(Shared::default());
        let runner = Runner::new(Arc::clone(&engine), options, Arc::clone(&shared), inbox)?;
        let thread = thread::Builder::new()
            .name("engine".into())
            .spawn(move || runner.run())
            .map_err(|source| EngineError::Thread { what: "the engine loop".into(), source })?;
        let inner = Inner { engine, options: options.clone(), shared, messages, thread: Some(thread) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Queues a job and returns at once.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`] names the field that cannot be run; the others say why nothing is taken now.
    pub fn submit(&self, job: Job) -> Result<TokenEvents, SubmitError> {
        let Inner { engine, options, .. } = &*self.inner;
        job.request.validate(engine.vocab_size(), engine.context_len())?;
        if job.n == 0 || job.n > options.max_num_seqs {
            let expected = format!("1 to {}", options.max_num_seqs);
            return Err(EngineError::request("n", expected, job.n).into());
        }
        self.admit(job.n, Task::Generate(Box::new(job)))
    }

    /// Queues a prompt for its embedding: the mean of the last hidden states of all its tokens, of length 1. The events
    /// end with [`TokenEvent::Embedding`].
    ///
    /// # Errors
    /// As [`Service::submit`].
    pub fn embed(&self, prompt: Vec<u32>, owner: u64, salt: u64) -> Result<TokenEvents, SubmitError> {
        let engine = &self.inner.engine;
        let request = Request::new(prompt);
        request.validate_prompt(engine.vocab_size(), engine.context_len())?;
        self.admit(1, Task::Embed { prompt: request.prompt, owner, salt })
    }

    fn admit(&self, finishes: usize, task: Task) -> Result<TokenEvents, SubmitError> {
        let Inner { options, shared, messages, .. } = &*self.inner;
        let number = shared.admit(options.max_waiting)?;
        let (sender, events) =
            events::channel(number, finishes, options.event_capacity, messages.clone(), Arc::clone(shared));
        if messages.send(Message::Submit(Admitted::new(number, task, sender))).is_err() {
            shared.forget_queued();
            return Err(shared.dead_error());
        }
        Ok(events)
    }

    /// How it is doing, from any thread and without waiting.
    pub fn health(&self) -> Health {
        self.inner.shared.health()
    }

    /// Counters and sums since the start.
    pub fn metrics(&self) -> ServiceMetrics {
        self.inner.shared.metrics(|metrics| metrics.clone())
    }

    /// Takes nothing more from now on; what was taken goes on.
    pub fn drain(&self) {
        self.inner.shared.drain();
    }

    /// Whether nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        self.inner.shared.is_idle()
    }

    /// Ends all that waits or runs, with [`crate::FinishReason::Cancelled`].
    pub fn cancel_all(&self) {
        // An engine thread that is gone has nothing left to cancel.
        let _ = self.inner.messages.send(Message::CancelAll);
    }

    /// The engine that is stepped.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.inner.engine
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told its readers.
            let _ = thread.join();
        }
    }
}
