//! The scheduler against a cache that knows what it holds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and print what it measured")]

mod batching;
mod fairness;
mod prefix_cache;
mod random;
mod siblings;
mod simulation;
mod snapshots;
mod states;
mod threads;
mod world;
