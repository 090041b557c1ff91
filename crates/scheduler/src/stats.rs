//! [`SchedulerStats`]: the state and the counters that an operator watches.

/// Why the first block of a prompt that was not in the prefix cache was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MissReason {
    /// These tokens have not been seen after this prefix.
    Cold,
    /// They were cached and had to make room, as far as the index remembers: twice as many blocks as the pool has.
    Evicted,
    /// They are known under another salt, that is, to somebody else.
    Salt,
    /// The prompt is too short for a block to be shared, or the block agrees with a cached one in the first half of
    /// its tokens, but not in all.
    BelowBlock,
}

/// Sequences by the reason why their prefix was not cached further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefixMisses {
    /// [`MissReason::Cold`].
    pub cold: u64,
    /// [`MissReason::Evicted`].
    pub evicted: u64,
    /// [`MissReason::Salt`].
    pub salt: u64,
    /// [`MissReason::BelowBlock`].
    pub below_block: u64,
}

impl PrefixMisses {
    pub(crate) fn count(&mut self, reason: MissReason) {
        *match reason {
            MissReason::Cold => &mut self.cold,
            MissReason::Evicted => &mut self.evicted,
            MissReason::Salt => &mut self.salt,
            MissReason::BelowBlock => &mut self.below_block,
        } += 1;
    }
}

/// A snapshot; counters run from the start of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerStats {
    /// Sequences that hold blocks; siblings count before they part.
    pub running: usize,
    /// Sequences that wait for their turn, preempted ones included.
    pub waiting: usize,
    /// Blocks of the pool.
    pub num_blocks: usize,
    /// Blocks that somebody holds, tables outside the scheduler included.
    pub num_used_blocks: usize,
    /// Blocks that nobody holds, cached ones included.
    pub num_free_blocks: usize,
    /// Blocks that nobody holds and whose content is known.
    pub num_cached_blocks: usize,
    /// Prompt tokens that were looked up in the prefix cache, each prompt once.
    pub prefix_cache_queries: u64,
    /// Those of them that were found.
    pub prefix_cache_hits: u64,
    /// Sequences by the reason why not more was found; those with nothing more to find are not counted.
    pub prefix_misses: PrefixMisses,
    /// Times a sequence lost its blocks and had to wait again.
    pub preemptions: u64,
    /// Plans that were not empty.
    pub steps: u64,
    /// Tokens of those plans.
    pub scheduled_tokens: u64,
    /// Sequences looked at to make plans: what planning costs, counted instead of timed.
    pub visits: u64,
}
