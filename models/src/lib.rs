//! The model families of cachalot: DeepSeek-V2, V2-Lite, Coder-V2, V3, R1, V3.1 and V3.2, deepseek-moe-16b, and the
//! dense llama and qwen2 decoders of DeepSeek-LLM, DeepSeek-Coder and the R1 distills.
//!
//! A family is one file that says which [`layers`] stand in which place; the layers never learn which family they
//! serve, and a forward has no family branch: whatever varies is an enum value ([`layers::Attention`],
//! [`layers::Ffn`]) chosen when the model is built. Everything runs over `kernels::ops`, so a model is written once
//! for every device.
//!
//! ```text
//! load -> families (llama, deepseek, deepseek_v2, _v3, _v32) -> Decoder -> Block -> Attention, Ffn -> kernels::ops
//! ```
//!
//! A model may be one rank of several ([`Shard`] says which part of every weight it keeps): layers hold a communicator
//! and meet where they must. The row-parallel linears, the mixture of experts and the embedding are the only callers
//! of `all_reduce`, the head is the only one of `all_gather_cols`; whatever is replicated has the same bits everywhere.
//!
//! Deliberately absent: tensor state outside [`KvCache`], global state, text. A forward takes the step's
//! [`StepContext`] first, then the [`Batch`], then the cache it writes to.

mod batch;
mod context;
mod decoder;
mod deepseek;
mod deepseek_v2;
mod deepseek_v3;
mod deepseek_v32;
mod deepseek_v4;
mod error;
mod expert_format;
mod footprint;
mod index_format;
mod llama;
mod loader;
mod model;
mod mtp;
mod options;
mod shard;
mod summary;

pub mod layers;

pub use batch::Batch;
pub use context::{Probe, StepContext};
pub use decoder::Decoder;
pub use error::{ModelError, Result};
pub use expert_format::{ExpertFormat, Int8Report, int8_report};
pub use footprint::{Footprint, recorded_row_bytes};
pub use index_format::IndexFormat;
pub use layers::{KvCache, KvLayout, LayerCache, LayerKv};
pub use model::{Model, check_ranks, load, load_with};
pub use mtp::Mtp;
pub use options::ModelOptions;
pub use shard::{HeadShard, Shard};
pub use summary::{ModelSummary, SummaryPart, kv_layout, mtp_kv_layout, summary};
