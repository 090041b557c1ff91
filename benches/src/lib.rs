//! What the binaries share: random weights, the machine's own peaks, timing and the table; and the kernels' budget.

pub mod budget;
pub mod layer;
pub mod peaks;
pub mod profile;
pub mod weights;
