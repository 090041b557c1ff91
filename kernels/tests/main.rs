//! Every op against its naive reference, at every instruction level of this machine: one file per stem, one binary.

#![allow(clippy::unwrap_used, reason = "also in the functions that tests share")]

mod common;

mod block_copy;
mod compressor;
mod device;
mod elementwise;
mod embedding;
mod gate;
mod gemm;
mod gemm_s8;
mod ggml;
mod gqa;
mod grouped_linear;
mod hadamard;
mod hyper_connection;
mod indexer;
mod join;
mod kv_write;
mod linear;
mod mla;
mod moe;
mod norm;
mod paged;
mod paged_attention;
mod paged_mla;
mod requantize;
mod rope;
mod sample;
mod shared_kv;
mod state_ring;
mod swiglu;
mod weight;
mod window_attention;
