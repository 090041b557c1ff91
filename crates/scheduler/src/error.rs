//! The one error type of the scheduler.

/// Why blocks could not be handed out, why a sequence was not taken in, or what is wrong with the books.
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
    /// An option out of range.
    #[error("scheduler: {field} is {found}, expected at least {min}")]
    Option {
        /// Name of the option.
        field: &'static str,
        /// The least value that works with the other options.
        min: usize,
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
    /// As many sequences wait as may.
    #[error("the queue is full: {waiting} sequences wait already")]
    QueueFull {
        /// Sequences that wait.
        waiting: usize,
    },
    /// A sequence that does not fit the pool even if it runs alone.
    #[error("the sequence may grow to {needed} blocks, the KV pool has {total}")]
    TooLong {
        /// Blocks of its prompt and all its tokens.
        needed: usize,
        /// Blocks of the pool.
        total: usize,
    },
    /// More siblings than sequences may run at once, or siblings without a token to differ in.
    #[error("{found} sequences of one prompt, at most {max} can run at once")]
    TooManySiblings {
        /// The sequence and its siblings.
        found: usize,
        /// `max_num_seqs`, or 1 if they only prefill.
        max: usize,
    },
    /// A prompt without a token: nothing to compute a next token from.
    #[error("the prompt of sequence {id} is empty")]
    EmptyPrompt {
        /// The sequence.
        id: u64,
    },
    /// A name that a living sequence has already.
    #[error("sequence {id} is alive already")]
    Duplicate {
        /// The sequence.
        id: u64,
    },
    /// A block that is free and held at once, free twice, or neither: a bug of ours.
    #[error("block pool integrity: block {block} is {found}")]
    Integrity {
        /// The physical block.
        block: u32,
        /// Its state in words.
        found: &'static str,
    },
    /// The books about a sequence contradict each other: a bug of ours.
    #[error("scheduler integrity: sequence {id} is {found}")]
    Books {
        /// The sequence.
        id: u64,
        /// Its state in words.
        found: &'static str,
    },
}
