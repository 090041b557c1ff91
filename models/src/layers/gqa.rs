//! [`Gqa`]: grouped-query attention with half-split rope (llama, qwen2, deepseek-moe-16b).

use std::sync::Arc;

use kernels::{RopeLayout, Tensor, ops};

use crate::layers::{LayerCache, Linear, RopeFrequencies, RowLinear};
use crate::{Batch, Result, StepContext};

/// The head sizes of a GQA layer, as this rank has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GqaShape {
    /// Query heads `H`.
    pub num_heads: usize,
    /// Key and value heads `H_kv`, a divisor of `H`.
    pub num_kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

/// Attention over full keys and values; multi-head attention is the case `H_kv = H`.
#[derive(Debug)]
pub struct Gqa {
    /// `q_proj` `[H * head_dim, D]`.
    pub q: Linear,
    /// `k_proj` `[H_kv * head_dim, D]`.
    pub k: Linear,
    /// `v_proj` `[H_kv * head_dim, D]`.
    pub v: Linear,
    /// `o_proj` `[D, H * head_dim]`.
    pub o: RowLinear,
    /// Head sizes.
    pub shape: GqaShape,
    /// Frequencies over the whole head.
    pub rope: Arc<RopeFrequencies>,
    /// Factor on the scores, `head_dim^-0.5`.
    pub softmax_scale: f32,
}

impl Gqa {
    /// `x` `[T, D]` to `[T, D]`; writes `[rope(k) | v]` rows `[2 * H_kv * head_dim]` into `cache`.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        x: &Tensor,
        cache: &mut LayerCache,
    ) -> Result<Tensor> {
        let GqaShape { num_heads, num_kv_heads, head_dim } = self.shape;
        let tokens = x.dim(0);
        let [cache] = cache.tensors_mut()?;
        let table = ctx.rope_table(&self.rope, batch)?;
        let mut q = self.q.forward(x)?.reshape(&[tokens, num_heads, head_dim])?;
        let k = self.k.forward(x)?.reshape(&[tokens, num_kv_heads, head_dim])?;
        let v = self.v.forward(x)?.reshape(&[tokens, num_kv_heads, head_dim])?;
        ops::rope_assign(&mut q, 0, &table, RopeLayout::HalfSplit)?;
        ops::gqa_kv_write(cache, &k, &v, &table, RopeLayout::HalfSplit, &batch.paged.slot_mapping)?;
        let out = ops::paged_gqa(&q, cache, &batch.paged, self.softmax_scale, num_kv_heads)?;
        self.o.forward(&out)
    }
}
