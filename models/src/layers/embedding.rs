//! [`Embedding`]: token ids to rows of the residual stream.

use std::sync::Arc;

use comm::Communicator;
use kernels::{Tensor, Weight, ops};

use crate::Result;

/// The token table, of which every rank has some rows. Clones share the weight, which is how a tied head and the MTP
/// layers use it too.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[V_rank, D]`, packed as stored.
    pub table: Weight,
    /// The token of the table's first row.
    pub first: usize,
    /// Tokens of all ranks, `V`.
    pub vocab_size: usize,
    /// The ranks.
    pub comm: Arc<dyn Communicator>,
}

impl Embedding {
    /// `token_ids` `[T]` (`U32`) to `[T, D]`, `F32`. A token's row comes from one rank, the others add zeros.
    pub fn forward(&self, token_ids: &Tensor) -> Result<Tensor> {
        let mut rows = ops::embedding_shard(&self.table, token_ids, self.first, self.vocab_size)?;
        self.comm.all_reduce(&mut rows)?;
        Ok(rows)
    }
}
