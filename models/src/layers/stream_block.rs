//! [`StreamBlock`]: one pre-norm decoder layer over a residual of several streams (V4).

use kernels::{Tensor, ops};

use crate::layers::{CsaHca, Ffn, HyperConnection, LayerCache, RmsNorm};
use crate::{Batch, Result, StepContext};

/// [`crate::layers::Block`] with a hyper-connection in place of each residual addition.
#[derive(Debug)]
pub struct StreamBlock {
    /// `hc_attn_*`.
    pub attention_connection: HyperConnection,
    /// `attn_norm` `[D]`.
    pub attention_norm: RmsNorm,
    /// Attention of this layer.
    pub attention: CsaHca,
    /// `hc_ffn_*`.
    pub ffn_connection: HyperConnection,
    /// `ffn_norm` `[D]`.
    pub ffn_norm: RmsNorm,
    /// Feed-forward of this layer.
    pub ffn: Ffn,
}

impl StreamBlock {
    /// Advances the streams `[T, S, D]` by this layer; `cache` is the layer's part of the KV cache.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        streams: &mut Tensor,
        cache: &mut LayerCache,
    ) -> Result<()> {
        let (x, maps) = self.attention_connection.read(streams)?;
        let y = self.attention.forward(ctx, batch, &self.attention_norm.forward(&x)?, cache)?;
        ops::hyper_expand(streams, &y, &maps)?;
        let (x, maps) = self.ffn_connection.read(streams)?;
        let y = self.ffn.forward(ctx, batch, &self.ffn_norm.forward(&x)?)?;
        ops::hyper_expand(streams, &y, &maps)?;
        Ok(())
    }
}
