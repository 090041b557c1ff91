//! `verify` on every GGUF fixture: whole, in chunks, over ranks, and how much memory the weights take. Catches: a block
//! format decoded wrongly, a tensor under another's name, rotated pairs, a key of the metadata that is not read.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use cachalot::verify::{Outcome, Tolerances, VerifyOptions, verify_checkpoint};
use checkpoint::GgufTokenizer;
use comm::Solo;
use kernels::Device;
use testkit::{Fixture, GGUF_FIXTURES};

/// What the goldens were made to hold, for every key.
fn within() -> VerifyOptions {
    let tolerances = Tolerances { all: Some(3e-4), ..Tolerances::default() };
    VerifyOptions { tolerances, ..VerifyOptions::default() }
}

fn check(options: &VerifyOptions) {
    for fixture in Fixture::all_gguf() {
        let report = verify_checkpoint(fixture.dir(), options, &mut |_| {})
            .unwrap_or_else(|e| panic!("{}: {e}", fixture.name()));
        assert_eq!(report.outcome(), Outcome::Pass, "{}\n{report}", fixture.name());
        assert_eq!(report.rows.len(), fixture.golden().keys("").len(), "every key has its row");
    }
}

#[test]
fn every_file_holds_whole() {
    check(&within());
}

#[test]
fn every_file_holds_token_by_token() {
    check(&VerifyOptions { chunk: Some(1), ..within() });
}

/// Slices of columns that cut a block are decoded, others stay packed; rows of query heads are sliced in released order.
#[test]
fn every_file_holds_over_two_ranks() {
    check(&VerifyOptions { tensor_parallel: 2, chunk: Some(7), ..within() });
}

/// Norms, routers and `kv_b` are `F32`; everything else is as large as in the file.
#[test]
fn weights_stay_packed() {
    for fixture in Fixture::all_gguf() {
        let checkpoint = fixture.checkpoint();
        let model = models::load(&checkpoint, &Device::Cpu, Arc::new(Solo), &mut |_| {}).unwrap();
        assert!(model.unknown_tensors().is_empty(), "{}: {:?}", fixture.name(), model.unknown_tensors());
        // Divisors of frequencies are used up when the model is built.
        let kept = |name: &&str| *name != checkpoint::ROPE_FREQS;
        let widened = |name: &&str| name.contains("norm") || name.contains(".mlp.gate.");
        let info = |name: &str| checkpoint.info(name).unwrap();
        let expected: usize = checkpoint
            .names()
            .filter(kept)
            .map(|name| match widened(&name) {
                true => 4 * info(name).shape.iter().product::<usize>(),
                false => info(name).size_bytes,
            })
            .sum();
        assert_eq!(model.weight_bytes(), expected, "{}", fixture.name());
        // kv_b of a split file takes more than its halves; the tiny models are mostly that and vocabulary.
        let limit = if checkpoint.longest_block().is_some() { 1.6 } else { 1.1 };
        let ratio = expected as f64 / checkpoint.file_bytes() as f64;
        assert!(ratio < limit, "{}: {ratio}", fixture.name());
    }
}

#[test]
fn every_file_has_its_vocabulary() {
    assert_eq!(GGUF_FIXTURES.len(), Fixture::all_gguf().count());
    for fixture in Fixture::all_gguf() {
        let checkpoint = fixture.checkpoint();
        let GgufTokenizer { model, tokens, token_types, merges, chat_template, .. } =
            checkpoint.gguf_tokenizer().unwrap();
        assert_eq!(
            (model.as_str(), tokens.len(), token_types.len()),
            ("gpt2", 512, 512),
            "{}",
            fixture.name()
        );
        assert!(!merges.is_empty() && chat_template.is_some(), "{}", fixture.name());
    }
}
