//! [`Embedding`]: token ids to rows of the residual stream.

use kernels::{Tensor, Weight, ops};

use crate::Result;

/// The token table. Clones share the weight, which is how a tied head and the MTP layers use it too.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[V, D]`, packed as stored.
    pub table: Weight,
}

impl Embedding {
    /// `token_ids` `[T]` (`U32`) to `[T, D]`, `F32`.
    pub fn forward(&self, token_ids: &Tensor) -> Result<Tensor> {
        Ok(ops::embedding(&self.table, token_ids)?)
    }
}
