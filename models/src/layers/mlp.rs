//! [`Mlp`]: the gated feed-forward layer of dense blocks and of shared experts.

use kernels::{Tensor, Weight, ops};

use crate::Result;
use crate::layers::RowLinear;

/// `down(silu(gate x) * up x)`.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[I, D]`.
    pub gate: Weight,
    /// `[I, D]`.
    pub up: Weight,
    /// `[D, I]`.
    pub down: RowLinear,
    /// Bound of the two factors (see [`ops::swiglu`]).
    pub swiglu_limit: Option<f32>,
}

impl Mlp {
    /// `x` `[T, D]` to `[T, D]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&ops::swiglu(x, &self.gate, &self.up, self.swiglu_limit)?)
    }

    /// This rank's summand of [`Mlp::forward`].
    pub fn partial(&self, x: &Tensor) -> Result<Tensor> {
        self.down.partial(&ops::swiglu(x, &self.gate, &self.up, self.swiglu_limit)?)
    }
}
