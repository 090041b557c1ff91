//! [`Mla`]: multi-head latent attention (DeepSeek-V2 report, section 2.1), always in its absorbed form.
//!
//! The cache keeps one row per token for all heads: the normed latent and the rotated shared key. `W_UK` is folded
//! into the query and `W_UV` into the output, so that the per-head keys and values never exist.

use std::sync::Arc;

use kernels::ops::{self, MlaDims};
use kernels::{RopeLayout, Tensor, Weight};

use crate::layers::{LayerCache, Linear, RmsNorm, RopeFrequencies, RowLinear};
use crate::{Batch, Result, StepContext};

/// How the query is projected.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per layer, built once and never moved in a forward")]
pub enum LatentQuery {
    /// One matrix `q_proj` `[H * (nope + rope), D]` (`q_lora_rank` is null).
    Full(Linear),
    /// Through a latent of its own (`q_lora_rank`).
    LowRank {
        /// `q_a_proj` `[q_lora_rank, D]`.
        a: Linear,
        /// `q_a_layernorm` `[q_lora_rank]`.
        norm: RmsNorm,
        /// `q_b_proj` `[H * (nope + rope), q_lora_rank]`.
        b: Linear,
    },
}

impl LatentQuery {
    /// What the query is projected from: `x` `[T, D]` itself, or its normed latent `[T, q_lora_rank]`.
    pub fn latent(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Full(_) => Ok(x.clone()),
            Self::LowRank { a, norm, .. } => norm.forward(&a.forward(x)?),
        }
    }

    /// [`LatentQuery::latent`] to `[T, H * (nope + rope)]`.
    pub fn project(&self, latent: &Tensor) -> Result<Tensor> {
        match self {
            Self::Full(q) => q.forward(latent),
            Self::LowRank { b, .. } => b.forward(latent),
        }
    }
}

/// Attention over the latent cache.
#[derive(Debug)]
pub struct Mla {
    /// The query projection.
    pub query: LatentQuery,
    /// `kv_a_proj_with_mqa` `[C + rope, D]`: the latent, then the rope key that all heads share.
    pub kv_a: Linear,
    /// `kv_a_layernorm` `[C]`, over the latent alone.
    pub kv_a_norm: RmsNorm,
    /// `kv_b_proj` `[H * (nope + v), C]`: per head `W_UK`, then `W_UV`.
    pub kv_b: Weight,
    /// `o_proj` `[D, H * v]`.
    pub o: RowLinear,
    /// Head sizes.
    pub dims: MlaDims,
    /// Frequencies over the rope channels, which come last in a query head; pairs are interleaved.
    pub rope: Arc<RopeFrequencies>,
    /// Factor on the scores, YaRN's mscale included (see [`crate::layers::mla_softmax_scale`]).
    pub softmax_scale: f32,
}

impl Mla {
    /// `x` `[T, D]` to `[T, D]`; writes `[latent | rope key]` rows `[C + rope]` into `cache`.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        x: &Tensor,
        cache: &mut LayerCache,
    ) -> Result<Tensor> {
        let [rows] = cache.tensors_mut()?;
        let query_latent = self.query.latent(x)?;
        self.attend(ctx, batch, [x, &query_latent], rows, None)
    }

    /// [`Mla::forward`] from `x` and its [`LatentQuery::latent`], over the keys at the positions `selected` `[T, K]`
    /// or, without, all that a token sees.
    pub(super) fn attend(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        [x, query_latent]: [&Tensor; 2],
        rows: &mut Tensor,
        selected: Option<&Tensor>,
    ) -> Result<Tensor> {
        let dims = &self.dims;
        let table = ctx.rope_table(&self.rope, batch)?;
        let q = self.query.project(query_latent)?;
        let mut q = q.reshape(&[x.dim(0), dims.num_heads, dims.qk_head_dim()])?;
        ops::rope_assign(&mut q, dims.qk_nope_head_dim, &table, RopeLayout::Interleaved)?;
        let kv_a = self.kv_a.forward(x)?;
        let RmsNorm { weight, eps } = &self.kv_a_norm;
        ops::mla_kv_write(rows, &kv_a, weight, *eps, &table, &batch.paged.slot_mapping)?;
        let q = ops::mla_absorb_query(&q, &self.kv_b, dims)?;
        let latent = ops::paged_mla(&q, rows, &batch.paged, selected, self.softmax_scale, dims.kv_lora_rank)?;
        self.o.forward(&ops::mla_project_value(&latent, &self.kv_b, dims)?)
    }
}
