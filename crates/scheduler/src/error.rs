//! The one error type of the scheduler.

/// Why blocks could not be handed out, or what is wrong with the books.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchedulerError {
    /// A pool that cannot exist.
    #[error("block pool: {field} is {found}, expected {expected}")]
    Pool {
        /// Name of the size.
        field: &'static str,
        /// The accepted range in words.
        expected: &'static str,
        /// The value that came.
        found: usize,
    },
    /// Fewer free blocks than a table needs. Nothing was taken.
    #[error("the KV pool is full: {needed} more blocks needed, {free} of {total} are free")]
    OutOfBlocks {
        /// Blocks the table lacks.
        needed: usize,
        /// Blocks that nobody holds.
        free: usize,
        /// Blocks of the pool.
        total: usize,
    },
    /// A block that is free and held at once, free twice, or neither: a bug of ours.
    #[error("block pool integrity: block {block} is {found}")]
    Integrity {
        /// The physical block.
        block: u32,
        /// Its state in words.
        found: &'static str,
    },
}
