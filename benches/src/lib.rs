//! What the benchmark binaries share: random weights, the machine's own peaks, timing, and the table; a served model
//! and a client for it.

pub mod http;
pub mod layer;
pub mod peaks;
pub mod profile;
pub mod served;
pub mod weights;

/// What the `cachalot` command runs with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
