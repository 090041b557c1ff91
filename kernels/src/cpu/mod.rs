//! The CPU backend: memory, instruction levels, and the vectorised forwards behind the ops.
//!
//! `simd` is the vector vocabulary and the only user of intrinsics; `level` compiles a kernel for each instruction set;
//! `tile`, `few_rows`, `packed`, `nibbles` and `ggml` are the inner loops over packed weights; the rest is one file per group of ops. The
//! functions here take slices that the ops have checked, and a [`Level`].

mod attention;
mod compressor;
mod few_rows;
mod gate;
mod ggml;
mod ggml_parts;
mod grouped_linear;
mod hadamard;
mod hyper_connection;
mod indexer;
mod kv_write;
mod level;
mod matmul;
mod memory;
mod mla;
mod moe;
mod nibbles;
mod packed;
mod parallel;
mod recent;
mod requantize;
mod rows;
mod sample;
mod shared_kv;
mod simd;
mod tile;
mod window_attention;

pub use attention::{Attention, CacheRows, Sequence, paged_attention};
pub use compressor::{Compress, compress};
pub use gate::{route, weigh_chosen};
pub use ggml::decode_ggml;
pub use grouped_linear::grouped_linear;
pub use hadamard::{hadamard, hadamard_fp4, hadamard_fp8};
pub use hyper_connection::{hyper_collapse, hyper_expand, hyper_maps};
pub use indexer::{IndexTopk, index_topk};
pub use kv_write::{CacheMut, gqa_kv_write, index_key_write, mla_kv_write};
pub use level::Level;
pub use matmul::{linear, swiglu};
pub use memory::AlignedBytes;
pub use mla::{absorb_query, project_value};
pub use moe::moe_experts;
pub use requantize::{ScaleRule, requantize};
pub use rows::{add_rms_norm, embedding, head_norm, rms_norm, rope};
pub use sample::{Candidate, sample_row};
pub use shared_kv::shared_kv;
pub use window_attention::{EntryRows, WindowAttention, WindowRows, window_attention};
