//! [`Mlp`]: the gated feed-forward layer of dense blocks and of shared experts.

use kernels::{Tensor, Weight, ops};

use crate::Result;

/// `down(silu(gate x) * up x)`.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[I, D]`.
    pub gate: Weight,
    /// `[I, D]`.
    pub up: Weight,
    /// `[D, I]`.
    pub down: Weight,
}

impl Mlp {
    /// `x` `[T, D]` to `[T, D]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = ops::swiglu(x, &self.gate, &self.up)?;
        Ok(ops::linear(&hidden, &self.down, None)?)
    }
}
