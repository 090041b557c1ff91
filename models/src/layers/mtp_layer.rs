//! [`MtpLayer`]: one draft layer of V3 (DeepSeek-V3 report, section 2.2).

use kernels::{Tensor, ops};

use crate::layers::{Block, LayerCache, Linear, RmsNorm};
use crate::{Batch, Result, StepContext};

/// `block(eh_proj([enorm(embed(t + 1)) ; hnorm(h_t)]))`, then its own final norm: `h_t` is the main model's final-normed
/// state. (The report writes the halves in the other order; the weights follow this one.)
#[derive(Debug)]
pub struct MtpLayer {
    /// `enorm` `[D]`, over the embedding.
    pub embedding_norm: RmsNorm,
    /// `hnorm` `[D]`, over the hidden state.
    pub hidden_norm: RmsNorm,
    /// `eh_proj` `[D, 2 D]`: embedding columns first.
    pub projection: Linear,
    /// An ordinary decoder block.
    pub block: Block,
    /// `shared_head.norm` `[D]`.
    pub final_norm: RmsNorm,
}

impl MtpLayer {
    /// `hidden` `[T, D]` and the embeddings `[T, D]` of the tokens that follow, to the states `[T, D]` that the head
    /// takes.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        [embedded, hidden]: [&Tensor; 2],
        cache: &mut LayerCache,
    ) -> Result<Tensor> {
        let mut hidden = {
            let embedded = self.embedding_norm.forward(embedded)?;
            let joined = ops::concat_cols(&embedded, &self.hidden_norm.forward(hidden)?)?;
            self.projection.forward(&joined)?
        };
        self.block.forward(ctx, batch, &mut hidden, cache)?;
        self.final_norm.forward(&hidden)
    }
}
