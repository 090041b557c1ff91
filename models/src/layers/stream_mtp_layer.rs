//! [`StreamMtpLayer`]: one draft layer of V4, over a residual of several streams (`MTPBlock` of DeepSeek's V4
//! `inference/model.py`).

use kernels::{Tensor, ops};

use crate::layers::{HyperConnection, LayerCache, Linear, RmsNorm, StreamBlock};
use crate::{Batch, Result, StepContext};

/// `block(e_proj(enorm(embed(t + 1))) + h_proj(hnorm(X_t)))`: `X_t` are the streams behind the layer before, which is the
/// main model's last one, and the embedding is added to each of them.
#[derive(Debug)]
pub struct StreamMtpLayer {
    /// `enorm` `[D]`, over the embedding.
    pub embedding_norm: RmsNorm,
    /// `hnorm` `[D]`, over each stream by itself.
    pub hidden_norm: RmsNorm,
    /// `e_proj` `[D, D]`.
    pub embedding_projection: Linear,
    /// `h_proj` `[D, D]`, of each stream.
    pub hidden_projection: Linear,
    /// An ordinary block, without compressed entries.
    pub block: StreamBlock,
    /// `hc_head_*`: the layer's own way from its streams to one.
    pub head: HyperConnection,
    /// `norm` `[D]`.
    pub final_norm: RmsNorm,
}

impl StreamMtpLayer {
    /// Streams `[T, S * D]` and the embeddings `[T, D]` of the tokens that follow, to the streams `[T, S * D]` behind
    /// this layer.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        [embedded, streams]: [&Tensor; 2],
        cache: &mut LayerCache,
    ) -> Result<Tensor> {
        let ([tokens, dim], count) = ([embedded.dim(0), embedded.dim(1)], self.head.config.streams);
        let embedded = self.embedding_projection.forward(&self.embedding_norm.forward(embedded)?)?;
        let mut mixed = ops::hyper_spread(&embedded, count)?.reshape(&[tokens * count, dim])?;
        {
            let normed = self.hidden_norm.forward(&streams.clone().reshape(&[tokens * count, dim])?)?;
            ops::add_assign(&mut mixed, &self.hidden_projection.forward(&normed)?)?;
        }
        let mut streams = mixed.reshape(&[tokens, count, dim])?;
        self.block.forward(ctx, batch, &mut streams, cache)?;
        Ok(streams.reshape(&[tokens, count * dim])?)
    }

    /// Streams `[R, S * D]` behind the layer to what the head takes, `[R, D]`.
    pub fn collapse(&self, streams: &Tensor) -> Result<Tensor> {
        self.final_norm.forward(&self.head.read_flat(streams)?)
    }
}
