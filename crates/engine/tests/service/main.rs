//! A service over a tiny model: what it answers is what single generations answer, whatever else runs or fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod conversations;
mod embedding;
mod equality;
mod faults;
mod gpu;
mod lifecycle;
mod packed;
mod readers;
mod rollback;
mod speculation;
mod state;
mod support;
