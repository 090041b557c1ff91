//! The scheduler against a cache that knows what it holds.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod batching;
mod fairness;
mod prefix_cache;
mod random;
mod siblings;
mod simulation;
mod world;
