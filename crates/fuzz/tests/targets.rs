//! Every target on random bytes: the short run that needs no fuzzer. A failure is made as small as it can be.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use fuzz::{DetokenizerTarget, OutputParserTarget, SchedulerTarget, Target, TemplateTarget};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

fn check<T: Target>(runs: u32) {
    let target = T::new();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(runs) };
    let bytes = prop::collection::vec(any::<u8>(), 0..500);
    let run = |data: Vec<u8>| {
        target.fuzz(&data);
        Ok(())
    };
    // The same inputs every time: what is new to search for is libFuzzer's to find, and not a build's.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng).run(&bytes, run).unwrap();
}

#[cfg(feature = "server")]
#[test]
fn requests() {
    check::<fuzz::RequestTarget>(3_000);
}

#[test]
fn templates() {
    check::<TemplateTarget>(3_000);
}

#[test]
fn detokenizer() {
    check::<DetokenizerTarget>(3_000);
}

#[test]
fn output_parser() {
    check::<OutputParserTarget>(3_000);
}

#[test]
fn scheduler() {
    check::<SchedulerTarget>(3_000);
}
