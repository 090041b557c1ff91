//! [`BlockAllocator`]: the free list of a pool of equal KV blocks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{BlockTable, SchedulerError};

/// A pool of `num_blocks` blocks of `block_size` tokens each. Clones share the pool.
///
/// Freed blocks are reused last-in first-out, so that a short chat keeps touching the same memory.
#[derive(Debug, Clone)]
pub struct BlockAllocator {
    pool: Arc<Pool>,
}

/// The books, shared by the allocator and every table it handed out.
#[derive(Debug)]
pub(crate) struct Pool {
    num_blocks: usize,
    block_size: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Blocks nobody holds; the next to go out is the last.
    free: Vec<u32>,
    /// Per physical block: a table holds it.
    held: Vec<bool>,
}

impl BlockAllocator {
    /// A pool with every block free.
    ///
    /// # Errors
    /// [`SchedulerError::Pool`] if a size is zero or the pool has more than `u32::MAX` rows, which a slot number
    /// cannot name.
    pub fn new(num_blocks: usize, block_size: usize) -> Result<Self, SchedulerError> {
        for (field, found) in [("num_blocks", num_blocks), ("block_size", block_size)] {
            if found == 0 {
                return Err(SchedulerError::Pool { field, expected: "at least 1", found });
            }
        }
        if num_blocks.checked_mul(block_size).is_none_or(|rows| rows > u32::MAX as usize) {
            let expected = "few enough that every row has a 32-bit number";
            return Err(SchedulerError::Pool { field: "num_blocks", expected, found: num_blocks });
        }
        let state = State { free: (0..num_blocks as u32).rev().collect(), held: vec![false; num_blocks] };
        Ok(Self { pool: Arc::new(Pool { num_blocks, block_size, state: Mutex::new(state) }) })
    }

    /// An empty table that draws from this pool.
    pub fn table(&self) -> BlockTable {
        BlockTable::new(Arc::clone(&self.pool))
    }

    /// Blocks of the pool.
    pub fn num_blocks(&self) -> usize {
        self.pool.num_blocks
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.pool.block_size
    }

    /// Blocks that no table holds.
    pub fn num_free_blocks(&self) -> usize {
        self.pool.lock().free.len()
    }

    /// Tokens the whole pool can hold.
    pub fn capacity(&self) -> usize {
        self.pool.num_blocks * self.pool.block_size
    }

    /// Proves that every block is either free exactly once or held.
    ///
    /// # Errors
    /// [`SchedulerError::Integrity`] names the first block for which that does not hold.
    pub fn check_integrity(&self) -> Result<(), SchedulerError> {
        self.pool.lock().check_integrity()
    }
}

impl Pool {
    pub(crate) fn block_size(&self) -> usize {
        self.block_size
    }

    /// Moves `count` blocks from the free list to `into`; all of them or none.
    pub(crate) fn take(&self, count: usize, into: &mut Vec<u32>) -> Result<(), SchedulerError> {
        let mut state = self.lock();
        let free = state.free.len();
        if count > free {
            return Err(SchedulerError::OutOfBlocks { needed: count, free, total: self.num_blocks });
        }
        let State { free: list, held } = &mut *state;
        for block in list.drain(free - count..).rev() {
            debug_assert!(!held[block as usize], "block {block} was on the free list while held");
            held[block as usize] = true;
            into.push(block);
        }
        Ok(())
    }

    /// Returns blocks to the free list, the last one first, so that the next taker gets them in the same order.
    pub(crate) fn give(&self, blocks: impl DoubleEndedIterator<Item = u32>) {
        let mut state = self.lock();
        for block in blocks.rev() {
            debug_assert!(state.held[block as usize], "block {block} was returned twice");
            state.held[block as usize] = false;
            state.free.push(block);
        }
    }

    /// A panic elsewhere cannot leave the books half written, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_integrity(&self) -> Result<(), SchedulerError> {
        let mut listed = vec![false; self.held.len()];
        for &block in &self.free {
            let Some(seen) = listed.get_mut(block as usize) else {
                return Err(SchedulerError::Integrity { block, found: "free but outside the pool" });
            };
            if std::mem::replace(seen, true) {
                return Err(SchedulerError::Integrity { block, found: "free twice" });
            }
        }
        for (block, (&held, &free)) in self.held.iter().zip(&listed).enumerate() {
            let found = match (held, free) {
                (true, true) => "free and held at once",
                (false, false) => "neither free nor held",
                _ => continue,
            };
            return Err(SchedulerError::Integrity { block: block as u32, found });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disturbed(disturb: impl FnOnce(&mut State)) -> SchedulerError {
        let allocator = BlockAllocator::new(4, 2).unwrap();
        disturb(&mut allocator.pool.lock());
        allocator.check_integrity().unwrap_err()
    }

    #[test]
    fn integrity_names_the_block() {
        let integrity = |block, found| SchedulerError::Integrity { block, found };
        assert_eq!(disturbed(|s| s.free.push(2)), integrity(2, "free twice"));
        assert_eq!(disturbed(|s| s.free.push(9)), integrity(9, "free but outside the pool"));
        assert_eq!(disturbed(|s| s.free.retain(|&b| b != 3)), integrity(3, "neither free nor held"));
        assert_eq!(disturbed(|s| s.held[1] = true), integrity(1, "free and held at once"));
    }

    #[test]
    fn impossible_pools_are_refused() {
        for (blocks, size, field) in
            [(0, 16, "num_blocks"), (16, 0, "block_size"), (1 << 30, 8, "num_blocks")]
        {
            let error = BlockAllocator::new(blocks, size).unwrap_err();
            assert!(matches!(error, SchedulerError::Pool { field: f, .. } if f == field), "{error}");
        }
    }
}
