//! [`Linear`]: a weight in the form the checkpoint stored, and an optional bias.

use kernels::{Tensor, Weight, ops};

use crate::Result;

/// `y = x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[N, K]`, packed as stored.
    pub weight: Weight,
    /// `[N]`, `F32`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// `x` `[T, K]` to `[T, N]`, `F32`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(x, &self.weight, self.bias.as_ref())?)
    }
}
