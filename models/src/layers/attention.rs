//! [`Attention`]: which attention a block has, and the cache rows it keeps per token.

use kernels::Tensor;

use crate::layers::{Gqa, LayerCache, LayerKv, Mla, SparseMla};
use crate::{Batch, Result, StepContext};

/// The attention half of a block.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per layer, built once and never moved in a forward")]
pub enum Attention {
    /// Grouped-query attention over full keys and values.
    Gqa(Gqa),
    /// Multi-head latent attention over the compressed latent.
    Mla(Mla),
    /// Latent attention over the keys that an indexer selects.
    SparseMla(SparseMla),
}

impl Attention {
    /// `x` `[T, D]`, normed, to `[T, D]`; writes the step's rows into `cache`, this layer's part of the KV cache.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        x: &Tensor,
        cache: &mut LayerCache,
    ) -> Result<Tensor> {
        match self {
            Self::Gqa(gqa) => gqa.forward(ctx, batch, x, cache),
            Self::Mla(mla) => mla.forward(ctx, batch, x, cache),
            Self::SparseMla(sparse) => sparse.forward(ctx, batch, x, cache),
        }
    }

    /// What this layer caches per token.
    pub fn kv(&self) -> LayerKv {
        match self {
            Self::Gqa(gqa) => {
                LayerKv::Gqa { num_kv_heads: gqa.shape.num_kv_heads, head_dim: gqa.shape.head_dim }
            }
            Self::Mla(mla) => LayerKv::Mla {
                kv_lora_rank: mla.dims.kv_lora_rank,
                qk_rope_head_dim: mla.dims.qk_rope_head_dim,
            },
            Self::SparseMla(SparseMla { mla, indexer }) => LayerKv::SparseMla {
                kv_lora_rank: mla.dims.kv_lora_rank,
                qk_rope_head_dim: mla.dims.qk_rope_head_dim,
                index_head_dim: indexer.shape.head_dim,
                index: indexer.format,
            },
        }
    }
}
