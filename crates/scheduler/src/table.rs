//! [`BlockTable`]: the blocks of one sequence, returned when it is dropped.

use std::sync::Arc;

use crate::SchedulerError;
use crate::pool::Pool;

/// The physical blocks of one sequence, in order. Key `i` lies in row `i % block_size` of block
/// `blocks()[i / block_size]`. The table is a holder of each; dropping it gives every block back to its pool.
#[derive(Debug)]
pub struct BlockTable {
    pool: Arc<Pool>,
    blocks: Vec<u32>,
    num_tokens: usize,
}

impl BlockTable {
    pub(crate) fn new(pool: Arc<Pool>) -> Self {
        Self { pool, blocks: Vec::new(), num_tokens: 0 }
    }

    /// A table of blocks that already count it as a holder.
    pub(crate) fn of(pool: Arc<Pool>, blocks: Vec<u32>) -> Self {
        let num_tokens = blocks.len() * pool.block_size();
        Self { pool, blocks, num_tokens }
    }

    /// Makes room for `num_tokens` tokens in all. A smaller number than now changes nothing.
    ///
    /// # Errors
    /// [`SchedulerError::OutOfBlocks`] if the pool lacks blocks; the table keeps what it had.
    pub fn grow_to(&mut self, num_tokens: usize) -> Result<(), SchedulerError> {
        let wanted = num_tokens.div_ceil(self.pool.block_size());
        if wanted > self.blocks.len() {
            self.pool.take(wanted - self.blocks.len(), &mut self.blocks)?;
        }
        self.num_tokens = self.num_tokens.max(num_tokens);
        Ok(())
    }

    /// Keeps the first `num_tokens` tokens and returns the blocks that only later ones used. A larger number than
    /// now changes nothing.
    pub fn truncate(&mut self, num_tokens: usize) {
        if num_tokens >= self.num_tokens {
            return;
        }
        let kept = num_tokens.div_ceil(self.pool.block_size());
        self.pool.give(self.blocks.drain(kept..));
        self.num_tokens = num_tokens;
    }

    /// The physical blocks in sequence order.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Tokens the table has room for by request; at most `blocks().len() * block_size`.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// A second holder of the same blocks.
    pub(crate) fn fork(&self) -> Self {
        self.pool.share(&self.blocks);
        Self { pool: Arc::clone(&self.pool), blocks: self.blocks.clone(), num_tokens: self.num_tokens }
    }

    /// Gives block `index` back and takes another in its place, which is returned.
    pub(crate) fn renew(&mut self, index: usize) -> Result<u32, SchedulerError> {
        self.pool.take(1, &mut self.blocks)?;
        let old = self.blocks.swap_remove(index);
        self.pool.give(std::iter::once(old));
        Ok(self.blocks[index])
    }

    /// Makes the whole blocks of `tokens` findable under `salt`; the first `known` are already.
    pub(crate) fn publish(&mut self, salt: u64, tokens: &[u32], known: usize) {
        self.pool.publish(salt, tokens, known, &mut self.blocks);
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.pool.give(self.blocks.drain(..));
    }
}
