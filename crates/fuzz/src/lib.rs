//! Tests only: what strangers can send, as functions of arbitrary bytes.
//!
//! Each [`Target`] makes a structured input of the bytes, feeds it to the code that meets such input first, and asserts
//! an invariant of it: a panic is the least that it would find. The tests of this crate run every target on a few
//! thousand random inputs; `libfuzzer/`, a workspace of its own, hands the same functions to libFuzzer, which follows
//! the coverage, and `scripts/fuzz.sh` runs them by the million.

#![allow(
    clippy::unwrap_used,
    reason = "nothing here is shipped, and a target that cannot be set up has to fail"
)]

mod ledger;
mod targets;
mod words;

use arbitrary::Unstructured;

pub use targets::detokenizer::DetokenizerTarget;
pub use targets::output_parser::OutputParserTarget;
#[cfg(feature = "server")]
pub use targets::request::RequestTarget;
pub use targets::scheduler::SchedulerTarget;
pub use targets::template::TemplateTarget;

/// Code under test, with what it needs set up once.
pub trait Target: Sync {
    /// Sets up what all runs share.
    fn new() -> Self;

    /// Makes an input of `bytes` and asserts the invariant; panics where it does not hold.
    ///
    /// # Errors
    /// The bytes do not make an input, which means nothing.
    fn run(&self, bytes: &mut Unstructured<'_>) -> arbitrary::Result<()>;

    /// Runs on raw bytes, as a fuzzer has them.
    fn fuzz(&self, data: &[u8]) {
        // Bytes that make no input are no finding.
        let _ = self.run(&mut Unstructured::new(data));
    }
}
