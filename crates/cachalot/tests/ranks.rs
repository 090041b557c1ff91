//! Tensor parallelism from the outside: every fixture verifies on several ranks, and the demo model says the same.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test may panic, and is in no hurry")]

use std::process::Command;

use cachalot::verify::{Outcome, VerifyOptions, verify_checkpoint};
use cachalot::{Error, GenerateOptions, LanguageModel, LoadOptions, ModelSource};
use testkit::Fixture;

fn check(fixture: &Fixture, tensor_parallel: usize, chunk: Option<usize>) {
    let options = VerifyOptions { tensor_parallel, chunk, ..Default::default() };
    let report = verify_checkpoint(fixture.dir(), &options, &mut |_| {}).unwrap();
    let what = format!("{} on {tensor_parallel} ranks in chunks of {chunk:?}", fixture.name());
    assert_eq!(report.outcome(), Outcome::Pass, "{what}\n{report}");
}

#[test]
fn every_fixture_holds_on_two_ranks() {
    Fixture::all().for_each(|fixture| check(&fixture, 2, None));
}

#[test]
fn every_fixture_holds_on_four_ranks() {
    Fixture::all().for_each(|fixture| check(&fixture, 4, None));
}

/// Four heads, eight query heads on two key heads, blocks of 128: nothing divides by three.
#[test]
fn fixtures_hold_in_odd_chunks_on_three_ranks() {
    for name in ["deepseek_v3_fp8", "deepseek_v3_mtp", "deepseek_v32", "qwen2_distill"] {
        check(&Fixture::open(name), 3, Some(7));
    }
}

#[test]
fn the_demo_model_says_the_same_on_two_ranks() {
    let answer = |tensor_parallel| {
        let options = LoadOptions { tensor_parallel, ..Default::default() };
        let model = LanguageModel::load(ModelSource::Embedded, options).unwrap();
        let options = GenerateOptions { max_tokens: Some(24), ..GenerateOptions::greedy() };
        model.generate("What is 128 + 256?", &options).unwrap().tokens
    };
    assert_eq!(answer(2), answer(1));
}

#[test]
fn more_ranks_than_heads_and_no_ranks_are_refused_by_name() {
    let verify = |tensor_parallel| {
        let options = VerifyOptions { tensor_parallel, ..Default::default() };
        verify_checkpoint(Fixture::open("deepseek_v3").dir(), &options, &mut |_| {})
    };
    let expected = "num_attention_heads is 4 and cannot be split over 5 ranks: use at most 4";
    assert_eq!(verify(5).unwrap_err().to_string(), expected);
    assert!(matches!(verify(0), Err(Error::Option { field: "tensor_parallel", .. })));
    let embedded = |tensor_parallel| {
        let options = LoadOptions { tensor_parallel, ..Default::default() };
        LanguageModel::load(ModelSource::Embedded, options).unwrap_err().to_string()
    };
    assert!(embedded(1000).contains("cannot be split over 1000 ranks"), "{}", embedded(1000));
    assert!(embedded(0).contains("tensor_parallel is 0"), "{}", embedded(0));
}

#[test]
fn the_commands_take_a_number_of_ranks() {
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_cachalot")).args(args).output().unwrap();
    let dir = Fixture::open("llama3_distill").dir().display().to_string();
    assert_eq!(run(&["verify", "--tp", "3", &dir]).status.code(), Some(0));
    let refused = run(&["verify", "--tp", "9", &dir]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("num_attention_heads is 8 and cannot be split over 9 ranks"), "{said}");
    let answer =
        |tp: &str| run(&["run", "--tp", tp, "--temperature", "0", "--max-tokens", "8", "What is 1 + 2?"]);
    assert_eq!(answer("2").stdout, answer("1").stdout);
    assert!(!answer("2").stdout.is_empty());
}
