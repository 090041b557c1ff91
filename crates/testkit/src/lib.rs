//! Tests only: the fixtures with their golden outputs ([`Fixture`]), comparison with tolerance ([`assert_close`]),
//! random checkpoints ([`RandomCheckpoint`]) and a closure on several ranks ([`ranks`]). Nothing here is shipped, and everything here may panic.
//!
//! The tests of this crate are the rules of the house, read from every manifest and source file.

mod compare;
mod fixture;
mod random;
mod ranks;

pub use compare::{assert_close, max_abs_diff};
pub use fixture::{FIXTURES, Fixture, Golden};
pub use random::{Random, RandomCheckpoint};
pub use ranks::{RANKS_DEADLINE, ranks};
