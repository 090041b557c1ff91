//! Tensors, devices and every op of cachalot.
//!
//! A model is written once, against [`ops`]; an op looks at where its tensors live and runs that backend's
//! version. Backends meet inside this crate and nowhere else. A kernel is four things under one stem: the op in
//! `ops/<stem>.rs` (shape check, then the forward of each backend), the naive reference in `reference/<stem>.rs`
//! (plain loops that read like the formula), and the test in `tests/<stem>.rs` that holds every forward against the
//! reference; a CUDA source joins them under the same stem.
//!
//! Conventions: activations are `F32`, row-major and contiguous, with the token count `T` as the leading dimension;
//! weights keep the dtype they were stored in ([`Weight`]) and are decoded inside the matmul.

mod cache_format;
#[cfg(feature = "cuda-host")]
mod cuda;
mod device;
mod dtype;
mod error;
mod fp4_key_row;
mod ggml;
mod host;
mod host_blocks;
mod index_key_row;
mod packed_row;
mod recording;
mod rope;
mod shared_kv_row;
mod tensor;
mod unblock;
mod weight;

pub mod cpu;
pub mod ops;
pub mod reference;

pub use cache_format::Fp8Row;
#[cfg(feature = "cuda-host")]
pub use cuda::CudaDevice;
pub use device::{CudaOptions, Device, Precision};
pub use dtype::{DType, e2m1_to_f32, e4m3_to_f32, e8m0_to_f32, f32_to_e2m1, f32_to_e4m3};
pub use error::{KernelError, Result};
pub use fp4_key_row::Fp4KeyRow;
pub use ggml::GgmlType;
pub use host_blocks::HostBlocks;
pub use index_key_row::IndexKeyRow;
pub use packed_row::PackedRow;
pub use recording::Recording;
pub use rope::{RopeLayout, RopeTable};
pub use shared_kv_row::SharedKvRow;
pub use tensor::Tensor;
pub use weight::{BlockScales, GroupScales, Weight, WeightFormat};
