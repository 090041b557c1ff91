//! The step loop of cachalot.
//!
//! An [`Engine`] owns a model, its KV pool and the block books. A [`Request`] becomes a [`Generation`], which is
//! stepped: prefill in chunks, then one token at a time, each step being batch, forward, sample, commit. The engine
//! speaks token ids only; what they spell is somebody else's concern.
//!
//! Cancelling and dropping are safe between any two steps, because the KV blocks belong to the generation's
//! [`Sequence`] and return with it.

mod engine;
mod error;
mod generation;
mod memory;
mod request;
mod sampler;
mod sampling;
mod sequence;
mod stats;

pub use engine::{DEFAULT_CONTEXT_LEN, Engine, EngineOptions, default_kv_dtype};
pub use error::EngineError;
pub use generation::{CancelHandle, FinishReason, Generation, Step};
pub use request::Request;
pub use sampler::{Sampled, Sampler};
pub use sampling::{MAX_LOGPROBS, SamplingParams};
pub use sequence::Sequence;
pub use stats::GenerationStats;
