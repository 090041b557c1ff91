//! Tests only: the fixtures with their golden outputs ([`Fixture`]), comparison with tolerance ([`assert_close`]),
//! random checkpoints ([`RandomCheckpoint`]), a closure on several ranks ([`ranks`]) and GPUs made of software
//! ([`soft_gpu`]). Nothing here is shipped, and everything here may panic.
//!
//! The tests of this crate are the rules of the house, read from every manifest and source file.

mod compare;
mod fixture;
mod gpu;
mod random;
mod ranks;

pub use compare::{assert_close, max_abs_diff};
pub use fixture::{FIXTURES, Fixture, GGUF_FIXTURES, Golden};
pub use gpu::{Gpu, hardware, soft_environment, soft_gpu};
pub use random::{Random, RandomCheckpoint};
pub use ranks::{RANKS_DEADLINE, ranks};
