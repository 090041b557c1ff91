//! [`RowLinear`]: a linear layer whose input channels are split over the ranks.

use std::sync::Arc;

use comm::Communicator;
use kernels::{Tensor, Weight, ops};

use crate::Result;

/// `y = x W^T + b` with `W` cut by columns: every rank has a summand of `y`.
#[derive(Debug, Clone)]
pub struct RowLinear {
    /// `[N, K_rank]`, packed as stored.
    pub weight: Weight,
    /// `[N]`, `F32`; one rank has it, so that the sum has it once.
    pub bias: Option<Tensor>,
    /// The ranks.
    pub comm: Arc<dyn Communicator>,
}

impl RowLinear {
    /// `x` `[T, K_rank]` to `[T, N]`, `F32`, the same bits on every rank.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = self.partial(x)?;
        self.comm.all_reduce(&mut y)?;
        Ok(y)
    }

    /// This rank's summand of [`RowLinear::forward`], for callers that sum up more than this before they reduce.
    pub fn partial(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(x, &self.weight, self.bias.as_ref())?)
    }
}
