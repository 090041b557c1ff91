//! Who holds which blocks of the KV pool.
//!
//! This crate speaks integers only: no tensor, no model, no clock, nothing of ours. That is what lets its whole test
//! suite run in milliseconds. A [`BlockAllocator`] hands out [`BlockTable`]s; a table is a guard, so a sequence that
//! ends in any way (finished, cancelled, dropped by a panic) returns its blocks.

mod allocator;
mod error;
mod table;

pub use allocator::BlockAllocator;
pub use error::SchedulerError;
pub use table::BlockTable;
