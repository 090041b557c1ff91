//! [`BlockAllocator`]: the public face of a pool of equal KV blocks.

use std::sync::Arc;

use crate::pool::Pool;
use crate::{BlockTable, SchedulerError};

/// A pool of `num_blocks` blocks of `block_size` tokens each. Clones share the pool, also between threads.
///
/// A block has any number of holders. One that nobody holds is free: it is either empty, or *cached*, which means that
/// the prefix index still knows the tokens in it. Empty blocks go out first, the last returned before the others, so
/// that a short chat keeps touching the same memory; then cached ones, the least recently held first.
#[derive(Debug, Clone)]
pub struct BlockAllocator {
    pub(crate) pool: Arc<Pool>,
}

impl BlockAllocator {
    /// A pool with every block free and nothing cached.
    ///
    /// # Errors
    /// [`SchedulerError::Pool`] if a size is zero or the pool has more than `u32::MAX` rows, which a slot number
    /// cannot name.
    pub fn new(num_blocks: usize, block_size: usize) -> Result<Self, SchedulerError> {
        Ok(Self { pool: Arc::new(Pool::new(num_blocks, block_size)?) })
    }

    /// As [`new`](Self::new) with another hash of a block's content, given the hash of what precedes it. A weak one
    /// costs time, never a wrong answer: the tokens are compared.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_hash(
        num_blocks: usize,
        block_size: usize,
        hash: fn(u64, &[u32]) -> u64,
    ) -> Result<Self, SchedulerError> {
        Ok(Self { pool: Arc::new(Pool::new(num_blocks, block_size)?.with_hash(hash)) })
    }

    /// The same pool for sequences that keep state besides their blocks: a prefix is found where one of `count` snapshots
    /// holds the state at its end, and nowhere else. Whoever carries out plans keeps the snapshots, by their numbers.
    #[must_use]
    pub fn with_snapshots(self, count: usize) -> Self {
        self.pool.set_snapshots(count);
        self
    }

    /// An empty table that draws from this pool.
    pub fn table(&self) -> BlockTable {
        BlockTable::new(Arc::clone(&self.pool))
    }

    /// Blocks of the pool.
    pub fn num_blocks(&self) -> usize {
        self.pool.num_blocks()
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.pool.block_size()
    }

    /// Blocks that nobody holds: what can be handed out, cached ones included.
    pub fn num_free_blocks(&self) -> usize {
        self.pool.num_free()
    }

    /// Blocks that nobody holds and whose content the prefix index still knows.
    pub fn num_cached_blocks(&self) -> usize {
        self.pool.num_cached()
    }

    /// Tokens the whole pool can hold.
    pub fn capacity(&self) -> usize {
        self.num_blocks() * self.block_size()
    }

    /// Proves that every block is empty, cached or held, exactly one of them, and that the prefix index is a forest
    /// over blocks that are not empty.
    ///
    /// # Errors
    /// [`SchedulerError::Integrity`] names the first block for which that does not hold.
    pub fn check_integrity(&self) -> Result<(), SchedulerError> {
        self.pool.check_integrity()
    }
}
