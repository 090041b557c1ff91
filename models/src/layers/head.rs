//! [`Head`]: hidden states to logits over the whole vocabulary.

use std::sync::Arc;

use comm::Communicator;
use kernels::Tensor;

use crate::Result;
use crate::layers::Linear;

/// The vocabulary projection; every rank computes the logits of its own tokens. The only caller of `all_gather_cols`.
/// Clones share the weight, which is how the MTP layers use it too.
#[derive(Debug, Clone)]
pub struct Head {
    /// `[V_rank, D]`.
    pub linear: Linear,
    /// Tokens of every rank, `V` in all.
    pub widths: Vec<usize>,
    /// The ranks.
    pub comm: Arc<dyn Communicator>,
}

impl Head {
    /// `hidden` `[R, D]` to logits `[R, V]` on every rank.
    pub fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.comm.all_gather_cols(&self.linear.forward(hidden)?, &self.widths)?)
    }
}
