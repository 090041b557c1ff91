//! Who runs next, and who holds which blocks of the KV pool.
//!
//! This crate speaks integers only: no tensor, no model, no clock, nothing of ours. That is what lets its whole test
//! suite run in seconds. A [`BlockAllocator`] hands out [`BlockTable`]s; a table is a guard, so a sequence that ends in
//! any way (finished, cancelled, dropped by a panic) returns its blocks. A [`Scheduler`] runs sequences over such a
//! pool: continuous batching, prompts in chunks, prefixes shared, fair between owners.

mod allocator;
mod commit;
mod error;
mod integrity;
mod plan;
mod pool;
mod prefix_index;
mod queue;
mod schedule;
mod scheduler;
mod seen;
mod sequence;
mod snapshots;
mod stats;
mod table;

pub use allocator::BlockAllocator;
pub use error::SchedulerError;
pub use plan::{BlockCopy, Chunk, Plan};
pub use scheduler::{Scheduler, SchedulerOptions};
pub use sequence::{OwnerId, SequenceId, SequenceSpec};
pub use stats::{MissReason, PrefixMisses, SchedulerStats};
pub use table::BlockTable;
