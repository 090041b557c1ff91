//! [`Ffn`]: which feed-forward layer a block has.

use kernels::Tensor;

use crate::layers::{Mlp, Moe};
use crate::{Batch, Result, StepContext};

/// The feed-forward half of a block.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per layer, built once and never moved in a forward")]
pub enum Ffn {
    /// Dense: every token through one MLP.
    Mlp(Mlp),
    /// Routed: every token through its chosen experts.
    Moe(Moe),
}

impl Ffn {
    /// `x` `[T, D]`, normed, to `[T, D]`.
    pub fn forward(&self, ctx: &mut StepContext<'_>, batch: &Batch, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Mlp(mlp) => mlp.forward(x),
            Self::Moe(moe) => moe.forward(ctx, batch, x),
        }
    }
}
