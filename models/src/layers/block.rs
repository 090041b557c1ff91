//! [`Block`]: one pre-norm decoder layer.

use kernels::{Tensor, ops};

use crate::layers::{Attention, Ffn, LayerCache, RmsNorm};
use crate::{Batch, Result, StepContext};

/// `h += attention(norm(h)); h += ffn(norm(h))`.
#[derive(Debug)]
pub struct Block {
    /// `input_layernorm` `[D]`.
    pub attention_norm: RmsNorm,
    /// Attention of this layer.
    pub attention: Attention,
    /// `post_attention_layernorm` `[D]`.
    pub ffn_norm: RmsNorm,
    /// Feed-forward of this layer.
    pub ffn: Ffn,
}

impl Block {
    /// Advances the residual stream `hidden` `[T, D]` by this layer; `cache` is the layer's part of the KV cache.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        hidden: &mut Tensor,
        cache: &mut LayerCache,
    ) -> Result<()> {
        let normed = self.attention_norm.forward(hidden)?;
        let attended = self.attention.forward(ctx, batch, &normed, cache)?;
        let normed = self.ffn_norm.forward_add(hidden, &attended)?;
        ops::add_assign(hidden, &self.ffn.forward(ctx, batch, &normed)?)?;
        Ok(())
    }
}
