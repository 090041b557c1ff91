//! `--kv-dtype` and `--indexer-kv-dtype`: the element types of a KV cache by name.

use cachalot::{DType, IndexFormat};
use clap::ValueEnum;

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvDtype {
    /// Single precision.
    F32,
    /// bfloat16: half the memory.
    Bf16,
    /// 8-bit floats with a scale per 128 channels, for latent (MLA) caches: 656 bytes a layer where bf16 takes 1152; per 64,
    /// as released, for the rows of DeepSeek-V4: 584 bytes where bf16 takes 1024.
    Fp8,
}

impl From<KvDtype> for DType {
    fn from(dtype: KvDtype) -> Self {
        match dtype {
            KvDtype::F32 => Self::F32,
            KvDtype::Bf16 => Self::BF16,
            KvDtype::Fp8 => Self::F8E4M3,
        }
    }
}

/// What the indexer of DeepSeek-V3.2 or V4 compares and caches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum IndexerKvDtype {
    /// Exact maths; keys in the KV cache's element type, in bf16 where that is fp8.
    #[default]
    Auto,
    /// As V3.2 was released: queries and keys rotated by a Hadamard matrix and rounded to 8-bit floats, 132 bytes a key where
    /// bf16 takes 256; close scores may be ordered otherwise.
    Fp8,
    /// As V4 was released, and for V4 alone: rotated and rounded to 4-bit floats with a scale per 32 channels, 68 bytes a key.
    Fp4,
}

impl From<IndexerKvDtype> for IndexFormat {
    fn from(dtype: IndexerKvDtype) -> Self {
        match dtype {
            IndexerKvDtype::Auto => Self::Exact,
            IndexerKvDtype::Fp8 => Self::Fp8,
            IndexerKvDtype::Fp4 => Self::Fp4,
        }
    }
}
