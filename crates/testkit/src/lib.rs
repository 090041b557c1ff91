//! Tests only: the fixtures with their golden outputs ([`Fixture`]), comparison with tolerance ([`assert_close`]) and
//! random checkpoints ([`RandomCheckpoint`]). Nothing here is shipped, and everything here may panic.
//!
//! The tests of this crate are the rules of the house, read from every manifest and source file.

mod compare;
mod fixture;
mod random;

pub use compare::{assert_close, max_abs_diff};
pub use fixture::{FIXTURES, Fixture, Golden};
pub use random::{Random, RandomCheckpoint};
