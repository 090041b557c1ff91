//! The one error type of the engine.

use kernels::KernelError;
use models::ModelError;
use scheduler::SchedulerError;

/// Why an engine could not be built, a request was refused, or a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A request that cannot be run. Nothing was allocated.
    #[error("{field} is {found}, expected {expected}")]
    Request {
        /// The field of the request or of its sampling parameters.
        field: &'static str,
        /// The accepted range in words.
        expected: String,
        /// The value that came.
        found: String,
    },
    /// An engine option out of range.
    #[error("engine option {field} is {found}, expected {expected}")]
    Options {
        /// The field of [`crate::EngineOptions`].
        field: &'static str,
        /// The accepted range in words.
        expected: String,
        /// The value that came.
        found: String,
    },
    /// The KV pool does not fit the memory of the machine.
    #[error(
        "the KV cache for {context_len} tokens needs {} MiB, but only {} MiB of memory are available; \
         choose a shorter context",
        .needed_bytes >> 20, .available_bytes >> 20
    )]
    Memory {
        /// Tokens the pool was to hold.
        context_len: usize,
        /// Bytes of the pool.
        needed_bytes: u64,
        /// Bytes the operating system reports as available.
        available_bytes: u64,
    },
    /// A rank of a tensor-parallel model failed, and with it the step on all ranks. The engine runs nothing any more.
    #[error("rank {rank} failed: {reason}; this engine cannot go on, load the model again")]
    Rank {
        /// The rank that failed first.
        rank: usize,
        /// What happened to it.
        reason: String,
    },
    /// The operating system gave no thread.
    #[error("cannot start a thread for {what}: {source}")]
    Thread {
        /// What was to run on it.
        what: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The model does not fit its device.
    #[error("the model does not fit: {plan}. What helps: {fix}")]
    DoesNotFit {
        /// What is needed and what is there.
        plan: Box<crate::MemoryPlan>,
        /// What would help.
        fix: String,
    },
    /// Logits that define no distribution.
    #[error("the logit of token {token} is {value}: there is no distribution to sample from")]
    Logits {
        /// The first offending token.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// Ended by [`crate::Service::cancel_all`] before there was an answer.
    #[error("cancelled")]
    Cancelled,
    /// A step panicked.
    #[error("a step panicked: {words}")]
    Panic {
        /// What it said.
        words: String,
    },
    /// Hidden states that have no direction.
    #[error("the mean of the hidden states has length {norm}: there is no embedding")]
    Embedding {
        /// The length.
        norm: f64,
    },
    /// A constraint that allows no token, or not the one that it allowed.
    #[error("the constraint on the output failed: {reason}")]
    Constraint {
        /// In its own words.
        reason: String,
    },
    /// The operating system gave no randomness for a seed.
    #[error("no seed was given and the operating system offers no randomness: {reason}")]
    Entropy {
        /// What it said.
        reason: String,
    },
    /// A step failed that may have changed the state of all its sequences.
    #[error("a step failed, and with it every sequence in it, because the model keeps state: {reason}")]
    State {
        /// Why it failed.
        reason: String,
    },
    /// More sequences than the model's caches have state for.
    #[error("all {total} sequences that can hold state at once are taken; wait for one to end")]
    Slots {
        /// Slots of the caches.
        total: usize,
    },
    /// No KV blocks left, because other sequences hold them.
    #[error(transparent)]
    Blocks(#[from] SchedulerError),
    /// The forward pass failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An op on a step's tensors failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl EngineError {
    /// An [`EngineError::Request`].
    pub(crate) fn request(field: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Request { field, expected: expected.into(), found: found.to_string() }
    }

    /// An [`EngineError::Options`].
    pub(crate) fn options(field: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Options { field, expected: expected.into(), found: found.to_string() }
    }
}
