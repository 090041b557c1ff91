//! The ops: what a model calls. Each checks shapes and dtypes first, writes nothing when they do not fit, and then
//! runs the forward of the device its tensors live on.

mod block_copy;
mod elementwise;
mod embedding;
mod gate;
mod gqa;
mod indexer;
mod join;
mod kv_write;
mod linear;
mod mla;
mod moe;
mod norm;
mod paged;
mod paged_mla;
mod requantize;
mod rope;
mod sample;
mod swiglu;

pub use block_copy::{copy_blocks, swap_in, swap_out};
pub use elementwise::{add_assign, concat_cols, gather_rows};
pub use embedding::{embedding, embedding_shard};
pub use gate::{GateConfig, GroupScore, Routing, Scoring, route};
pub use gqa::paged_gqa;
pub use indexer::{INDEX_SCORE_BYTES, index_topk};
pub use join::join_cols;
pub use kv_write::{gqa_kv_write, index_key_write, mla_kv_write};
pub use linear::linear;
pub use mla::{MlaDims, mla_absorb_query, mla_project_value};
pub use moe::{Experts, moe_experts};
pub use norm::{add_rms_norm, rms_norm};
pub use paged::{CacheReads, PagedBatch};
pub use paged_mla::paged_mla;
pub use requantize::{Int8Scales, Int8Stack, QuantError, requantize_int8};
pub use rope::rope_assign;
pub use sample::{Choice, LogitEdit, SampleBatch, SampleParams, SampledRows, sample, sample_host};
pub use swiglu::swiglu;
