//! What the benchmark binaries share: random weights, the machine's own peaks, timing, and the table.

pub mod layer;
pub mod peaks;
pub mod profile;
pub mod weights;
