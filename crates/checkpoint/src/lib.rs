//! A model directory or an embedded model becomes a typed config and tensors.
//!
//! [`Checkpoint::open`] checks everything that can be checked without reading tensor data: the config, every
//! safetensors or GGUF header against its file, the shard index, and that each FP8 weight has scales of the right shape. Only
//! then are gigabytes read, one tensor at a time: [`Checkpoint::tensor_f32`] widens norms, biases and gates,
//! [`Checkpoint::weight`] and [`Checkpoint::stacked_weight`] keep the stored dtype, and a [`Slice`] of them reads only
//! the bytes of one rank. Every error names the file, the
//! tensor or key, what was expected and what was found.

#[cfg(target_endian = "big")]
compile_error!("safetensors data is little-endian and is copied as it is");

mod checkpoint;
mod config;
mod error;
mod fp4;
mod gguf;
mod header;
pub mod hub;
mod load;
mod progress;
mod scale;
mod shard;
mod shard_index;
mod slice;
mod values;

pub use checkpoint::{Checkpoint, TensorInfo};
pub use config::{
    CSA_RATIO, CommonConfig, DeepseekConfig, DeepseekGeneration, DeepseekV4Config, Fp8Config,
    GenerationConfig, IndexerConfig, LlamaConfig, MlaConfig, ModelConfig, MoeConfig, RopeScaling,
    ScoringFunc, TopkMethod,
};
pub use error::{CheckpointError, Result};
pub use gguf::{GgufTokenizer, ROPE_FREQS};
pub use progress::LoadProgress;
pub use safetensors::Dtype;
pub use slice::Slice;
