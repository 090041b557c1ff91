//! `--kv-dtype`: the element types of a KV cache by name.

use cachalot::DType;
use clap::ValueEnum;

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvDtype {
    /// Single precision.
    F32,
    /// bfloat16: half the memory.
    Bf16,
    /// 8-bit floats with a scale per 128 channels, for latent (MLA) caches: 656 bytes a layer where bf16 takes 1152.
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
