//! [`IndexFormat`]: whether a lightning indexer compares queries and keys exactly, or rounded as its model was released.

use checkpoint::{DeepseekConfig, ModelConfig};
use kernels::{DType, Fp4KeyRow, IndexKeyRow, PackedRow, Tensor, ops};

use crate::{ModelError, Result};

/// What the lightning indexer of V3.2 or V4 compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IndexFormat {
    /// Queries and keys as they are computed; keys are cached beside the other rows, in their element type (`BF16`
    /// beside packed ones).
    #[default]
    Exact,
    /// Both rotated by a Walsh-Hadamard matrix and rounded to e4m3, with a power of two for each token and head as scale:
    /// 132 bytes of a key of 128 channels ([`kernels::IndexKeyRow`]), as V3.2 was released. The selection differs where scores
    /// are close.
    Fp8,
    /// Both rotated and rounded to e2m1, with a power of two for every 32 channels as scale: 68 bytes of a key of 128
    /// channels ([`kernels::Fp4KeyRow`]), as V4 was released.
    Fp4,
}

impl IndexFormat {
    /// Refuses a model whose indexer has no such format, before anything is read.
    ///
    /// # Errors
    /// [`ModelError::IndexFormat`] for a model without such an indexer, [`ModelError::Config`] for an `index_head_dim`
    /// that no Walsh-Hadamard matrix fits.
    pub fn check(self, config: &ModelConfig) -> Result<()> {
        let (name, least, indexer) = match (self, config) {
            (Self::Exact, _) => return Ok(()),
            (Self::Fp8, ModelConfig::Deepseek(DeepseekConfig { indexer, .. })) => {
                ("FP8", 1, indexer.as_ref())
            }
            (Self::Fp8, ModelConfig::DeepseekV4(config)) => ("FP8", 1, config.indexer.as_ref()),
            // Two codes share a byte.
            (Self::Fp4, ModelConfig::DeepseekV4(config)) => ("FP4", 2, config.indexer.as_ref()),
            (Self::Fp8, _) => ("FP8", 1, None),
            (Self::Fp4, _) => ("FP4", 2, None),
        };
        let Some(indexer) = indexer else {
            let model_type = config.common().model_type.clone();
            let families = if self == Self::Fp8 { "deepseek_v32 and deepseek_v4" } else { "deepseek_v4" };
            return Err(ModelError::IndexFormat { name, families, model_type });
        };
        let dim = indexer.index_head_dim;
        if dim.is_power_of_two() && dim >= least {
            return Ok(());
        }
        Err(ModelError::config("index_head_dim", format!("a power of two, for an indexer in {name}"), dim))
    }

    /// What a key of `index_head_dim` channels is packed as; exact ones are not.
    pub(crate) fn packed(self, index_head_dim: usize) -> Option<PackedRow> {
        match self {
            Self::Exact => None,
            Self::Fp8 => Some(PackedRow::IndexKey(IndexKeyRow { index_head_dim })),
            Self::Fp4 => Some(PackedRow::Fp4Key(Fp4KeyRow { index_head_dim })),
        }
    }

    /// Element type and elements of a cached key beside rows of `dtype`.
    pub(crate) fn stored(self, index_head_dim: usize, dtype: DType) -> (DType, usize) {
        match (self.packed(index_head_dim), dtype) {
            (Some(row), _) => (DType::U8, row.bytes()),
            (None, DType::F8E4M3) => (DType::BF16, index_head_dim),
            (None, _) => (dtype, index_head_dim),
        }
    }

    /// Makes queries `[T, H, D]` and their weights `[T, H]` what is compared with such keys.
    pub(crate) fn round(self, q: &mut Tensor, weights: &mut Tensor) -> Result<()> {
        match self {
            Self::Exact => Ok(()),
            Self::Fp8 => Ok(ops::hadamard_fp8_assign(q, weights)?),
            Self::Fp4 => Ok(ops::hadamard_fp4_assign(q)?),
        }
    }
}
