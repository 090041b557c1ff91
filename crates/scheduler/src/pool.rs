//! [`Pool`]: how many hold each block, which blocks are free, and the lock around both and the prefix index.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::SchedulerError;
use crate::prefix_index::{Found, PrefixIndex};
use crate::snapshots::{Kept, Snapshots};

/// The books, shared by the allocator and every table it handed out.
#[derive(Debug)]
pub(crate) struct Pool {
    num_blocks: usize,
    block_size: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Blocks nobody holds and the index does not know; the next to go out is the last.
    empty: Vec<u32>,
    /// Per physical block: how many tables hold it.
    holders: Vec<u32>,
    index: PrefixIndex,
    /// Of sequences that keep state besides their blocks.
    snapshots: Option<Snapshots>,
}

impl Pool {
    pub(crate) fn new(num_blocks: usize, block_size: usize) -> Result<Self, SchedulerError> {
        for (field, found) in [("num_blocks", num_blocks), ("block_size", block_size)] {
            if found == 0 {
                return Err(SchedulerError::Pool { field, expected: "at least 1", found });
            }
        }
        if num_blocks.checked_mul(block_size).is_none_or(|rows| rows > u32::MAX as usize) {
            let expected = "few enough that every row has a 32-bit number";
            return Err(SchedulerError::Pool { field: "num_blocks", expected, found: num_blocks });
        }
        let state = State {
            empty: (0..num_blocks as u32).rev().collect(),
            holders: vec![0; num_blocks],
            index: PrefixIndex::new(num_blocks, block_size),
            snapshots: None,
        };
        Ok(Self { num_blocks, block_size, state: Mutex::new(state) })
    }

    pub(crate) fn with_hash(self, hash: fn(u64, &[u32]) -> u64) -> Self {
        self.lock().index.set_hash(hash);
        self
    }

    pub(crate) fn set_snapshots(&self, count: usize) {
        self.lock().snapshots = Some(Snapshots::new(count));
    }

    pub(crate) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    pub(crate) fn block_size(&self) -> usize {
        self.block_size
    }

    pub(crate) fn num_free(&self) -> usize {
        self.lock().num_free()
    }

    pub(crate) fn num_cached(&self) -> usize {
        self.lock().index.num_unheld()
    }

    /// Moves `count` free blocks to `into`; all of them or none. Cached ones go when no empty one is left.
    pub(crate) fn take(&self, count: usize, into: &mut Vec<u32>) -> Result<(), SchedulerError> {
        let mut state = self.lock();
        let free = state.num_free();
        if count > free {
            return Err(SchedulerError::OutOfBlocks { needed: count, free, total: self.num_blocks });
        }
        for _ in 0..count {
            let Some(block) = state.next_free() else { break };
            debug_assert_eq!(state.holders[block as usize], 0, "block {block} was free while held");
            state.holders[block as usize] = 1;
            into.push(block);
        }
        Ok(())
    }

    /// One holder less for each block, the last one first: the next taker gets empty ones in the same order, and of a
    /// chain of cached ones the end is evicted before what it continues.
    pub(crate) fn give(&self, blocks: impl DoubleEndedIterator<Item = u32>) {
        let mut state = self.lock();
        for block in blocks.rev() {
            state.release(block);
        }
    }

    /// One holder more for blocks that are held already.
    pub(crate) fn share(&self, blocks: &[u32]) {
        let mut state = self.lock();
        for &block in blocks {
            debug_assert!(state.holders[block as usize] > 0, "block {block} is shared by nobody");
            state.holders[block as usize] += 1;
        }
    }

    /// How many hold `block`.
    pub(crate) fn num_holders(&self, block: u32) -> usize {
        self.lock().holders[block as usize] as usize
    }

    /// The longest known chain of whole blocks that `tokens` begins with under `salt`, at most `max_blocks` of them;
    /// the caller is a holder of each from now on. Where sequences keep state it ends where there is a snapshot of it.
    pub(crate) fn find(&self, salt: u64, tokens: &[u32], max_blocks: usize) -> Found {
        let mut state = self.lock();
        let mut found = state.index.find(salt, tokens, max_blocks);
        if let Some(snapshots) = &mut state.snapshots {
            let deepest = snapshots.deepest(&found.blocks);
            found.blocks.truncate(deepest.map_or(0, |(depth, _)| depth));
            found.snapshot = deepest.map(|(_, snapshot)| snapshot);
        }
        for &block in &found.blocks {
            state.hold(block);
        }
        found
    }

    /// Makes the whole blocks `known..` of `tokens` findable; those before are. A block whose content the index
    /// already has is given back, and `blocks` gets the known one in its place.
    pub(crate) fn publish(&self, salt: u64, tokens: &[u32], known: usize, blocks: &mut [u32]) {
        let mut state = self.lock();
        for (i, tokens) in tokens.chunks_exact(self.block_size).enumerate().skip(known) {
            let parent = i.checked_sub(1).map(|before| blocks[before]);
            let twin = state.index.insert(blocks[i], parent, salt, tokens);
            if twin != blocks[i] {
                state.hold(twin);
                state.release(std::mem::replace(&mut blocks[i], twin));
            }
        }
    }

    /// Whether sequences keep state besides their blocks.
    pub(crate) fn keeps_snapshots(&self) -> bool {
        self.lock().snapshots.is_some()
    }

    /// A snapshot for a plan to write to; `None` if there is none, or sequences keep no state.
    pub(crate) fn lend_snapshot(&self) -> Option<u32> {
        self.lock().snapshots.as_mut()?.lend()
    }

    /// A lent snapshot comes back: with the state at the end of `block`, which is known, or unwritten.
    pub(crate) fn return_snapshot(&self, snapshot: u32, block: Option<u32>) -> Option<Kept> {
        let mut state = self.lock();
        let block = block.filter(|&block| state.index.knows(block));
        let snapshots = state.snapshots.as_mut()?;
        match block {
            Some(block) => snapshots.keep(snapshot, block),
            None => {
                snapshots.give(snapshot);
                None
            }
        }
    }

    /// See [`Snapshots::outgrow`].
    pub(crate) fn outgrow_snapshot(&self, kept: Kept) {
        if let Some(snapshots) = &mut self.lock().snapshots {
            snapshots.outgrow(kept);
        }
    }

    pub(crate) fn check_integrity(&self) -> Result<(), SchedulerError> {
        self.lock().check_integrity()
    }

    /// A panic elsewhere cannot leave the books half written, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn num_free(&self) -> usize {
        self.empty.len() + self.index.num_unheld()
    }

    /// An empty block, or the one that has been cached for longest, and is not any more.
    fn next_free(&mut self) -> Option<u32> {
        if let Some(block) = self.empty.pop() {
            return Some(block);
        }
        let block = self.index.evict()?;
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.forget(block);
        }
        Some(block)
    }

    fn hold(&mut self, block: u32) {
        self.holders[block as usize] += 1;
        self.index.held(block);
    }

    fn release(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        debug_assert!(*holders > 0, "block {block} was returned twice");
        *holders -= 1;
        if *holders == 0 && !self.index.unheld(block) {
            self.empty.push(block);
        }
    }

    fn check_integrity(&self) -> Result<(), SchedulerError> {
        let fail = |block: usize, found| Err(SchedulerError::Integrity { block: block as u32, found });
        let mut listed = vec![false; self.holders.len()];
        for &block in &self.empty {
            let Some(seen) = listed.get_mut(block as usize) else {
                return fail(block as usize, "free but outside the pool");
            };
            if std::mem::replace(seen, true) {
                return fail(block as usize, "free twice");
            }
        }
        for (block, (&holders, &empty)) in self.holders.iter().zip(&listed).enumerate() {
            let known = self.index.knows(block as u32);
            let found = match (holders > 0, empty) {
                (true, true) => "free and held at once",
                (false, false) if !known => "neither free nor held",
                (false, true) if known => "empty and cached at once",
                _ => continue,
            };
            return fail(block, found);
        }
        let snapshots = self.snapshots.as_ref();
        if let Some(block) = snapshots.and_then(|s| s.unsound(|block| self.index.knows(block))) {
            return fail(block as usize, "with a snapshot that is not of it");
        }
        self.index.check_integrity(|block| self.holders[block as usize] > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disturbed(disturb: impl FnOnce(&mut State)) -> SchedulerError {
        let pool = Pool::new(4, 2).unwrap();
        disturb(&mut pool.lock());
        pool.check_integrity().unwrap_err()
    }

    #[test]
    fn integrity_names_the_block() {
        let integrity = |block, found| SchedulerError::Integrity { block, found };
        assert_eq!(disturbed(|s| s.empty.push(2)), integrity(2, "free twice"));
        assert_eq!(disturbed(|s| s.empty.push(9)), integrity(9, "free but outside the pool"));
        assert_eq!(disturbed(|s| s.empty.retain(|&b| b != 3)), integrity(3, "neither free nor held"));
        assert_eq!(disturbed(|s| s.holders[1] = 1), integrity(1, "free and held at once"));
        let known = |s: &mut State| assert_eq!(s.index.insert(2, None, 0, &[7, 8]), 2);
        assert_eq!(disturbed(known), integrity(2, "empty and cached at once"));
    }

    #[test]
    fn impossible_pools_are_refused() {
        for (blocks, size, field) in
            [(0, 16, "num_blocks"), (16, 0, "block_size"), (1 << 30, 8, "num_blocks")]
        {
            let error = Pool::new(blocks, size).unwrap_err();
            assert!(matches!(error, SchedulerError::Pool { field: f, .. } if f == field), "{error}");
        }
    }
}
