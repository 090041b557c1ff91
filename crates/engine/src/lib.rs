//! The step loop of cachalot.
//!
//! An [`Engine`] owns a model, its KV pool and the block books. A [`Request`] becomes a [`Generation`], which is
//! stepped: prefill in chunks, then one token at a time and what is guessed behind it ([`Speculation`]), each step being
//! batch, forward, sample, commit. The engine speaks token ids only; what they spell is somebody else's concern.
//!
//! The model may be split over several ranks, each with its part of the weights and of the cache; a step is then the
//! same function on all of them, and everything above a step does not notice.
//!
//! Cancelling and dropping are safe between any two steps, because the KV blocks belong to the generation's
//! [`Sequence`] and return with it.

mod draft;
mod engine;
mod error;
mod generation;
mod memory;
mod memory_plan;
mod ranks;
mod recorded;
mod request;
mod sampler;
mod sampling;
mod sequence;
mod service;
mod speculation;
mod state_slots;
mod stats;
mod step;

pub use engine::{DEFAULT_CONTEXT_LEN, Engine, EngineOptions, RANK_DEADLINE, Sizes, default_kv_dtype};
pub use error::EngineError;
pub use generation::{CancelHandle, FinishReason, Generation, Step};
pub use memory::available_bytes;
pub use memory_plan::MemoryPlan;
pub use ranks::{Rank, RankView};
pub use request::Request;
pub use sampler::{Sampled, Sampler};
pub use sampling::{MAX_LOGPROBS, SamplingParams};
pub use sequence::Sequence;
pub use service::{
    Constraint, FinishCounts, Health, Histogram, Job, PrefixMisses, Service, ServiceMetrics, ServiceOptions,
    SubmitError, TokenEvent, TokenEvents,
};
pub use speculation::{Drafter, MAX_SPECULATIVE_TOKENS, Speculation};
pub use stats::GenerationStats;
pub use step::{LogitRows, StepOutput};
