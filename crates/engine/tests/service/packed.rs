//! V4 with its cache as released, rows in FP8 and index keys in FP4 or FP8: snapshots and guesses change nothing, as without.

use std::sync::Arc;

use engine::{Drafter, Engine, EngineOptions};
use kernels::DType;
use models::{IndexFormat, ModelOptions};
use testkit::Fixture;

use crate::speculation::{check, guessing, ranks_in, requests};
use crate::state::{cached_options, converse};
use crate::support::{options, service};

const SMALL: &str = "deepseek_v4_smallhca";

fn engine(fixture: &str, index: IndexFormat, size: usize, options: EngineOptions) -> Arc<Engine> {
    let options = EngineOptions { kv_dtype: Some(DType::F8E4M3), ..options };
    let forms = ModelOptions { index, ..Default::default() };
    ranks_in(&Fixture::open(fixture).checkpoint(), forms, size, &options).unwrap()
}

#[test]
fn a_snapshot_holds_all_of_a_packed_window() {
    for index in [IndexFormat::Exact, IndexFormat::Fp8, IndexFormat::Fp4] {
        let reference = engine(SMALL, index, 1, options());
        converse(&engine(SMALL, index, 1, cached_options(96)), &reference, 120);
    }
    let long = EngineOptions { context_len: Some(512), max_sequences: 1, ..options() };
    let reference = engine("deepseek_v4", IndexFormat::Fp4, 1, long);
    converse(&engine("deepseek_v4", IndexFormat::Fp4, 1, cached_options(512)), &reference, 20);
}

#[test]
fn ranks_keep_the_same_packed_rows() {
    let [cached, reference] =
        [cached_options(96), options()].map(|options| engine(SMALL, IndexFormat::Fp4, 2, options));
    converse(&cached, &reference, 120);
}

/// Rings of packed rows go back what was guessed, the MTP layer's among them.
#[test]
fn guesses_change_nothing() {
    for (fixture, drafter, num_tokens, index) in [
        ("deepseek_v4", Drafter::Mtp, 3, IndexFormat::Exact),
        ("deepseek_v4", Drafter::Ngram, 5, IndexFormat::Fp4),
        (SMALL, Drafter::Ngram, 4, IndexFormat::Fp4),
        (SMALL, Drafter::Ngram, 4, IndexFormat::Fp8),
    ] {
        let reference = engine(fixture, index, 1, options());
        let options = EngineOptions { state_snapshots: 9, ..guessing(drafter, num_tokens) };
        let service = service(&engine(fixture, index, 1, options));
        let (guessed, _) = check(&service, &reference, &requests(12));
        assert!(guessed > 10, "{fixture} {drafter:?} {index:?}: {guessed} guesses");
    }
}
