//! Naive references: plain loops over `f32` slices that read like the formulas. Every forward is held against them;
//! nothing else calls them.

mod attention;
mod block_copy;
mod compressor;
mod dense;
mod ggml;
mod hadamard;
mod hyper_connection;
mod indexer;
mod moe;
mod requantize;
mod sample;
mod shared_kv;
mod w8a8;

pub use attention::{gqa, mla_absorb_query, mla_naive, mla_project_value, mqa, rope, window};
pub use block_copy::copy_blocks;
pub use compressor::compress;
pub use dense::{embedding, grouped_linear, layer_norm, linear, rms_norm, silu_mul};
pub use ggml::decode_ggml;
pub use hadamard::{fp4_power_of_two, fp8_power_of_two, hadamard};
pub use hyper_connection::{hyper_collapse, hyper_expand, hyper_maps};
pub use indexer::{index_scores, index_topk};
pub use moe::{moe_experts, route};
pub use requantize::{quant_error, requantize_int8};
pub use sample::sample;
pub use shared_kv::shared_kv_row;
pub use w8a8::{linear_w8a8, quantize_rows};
