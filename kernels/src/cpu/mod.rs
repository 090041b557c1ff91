//! The CPU backend: memory and the vectorised inner loops that the ops share.

mod memory;

pub use memory::AlignedBytes;
