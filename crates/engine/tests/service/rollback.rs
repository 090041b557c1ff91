//! Guesses of a model that keeps state per sequence (V4): the state goes back when they were wrong, and nothing shows.

use std::sync::Arc;

use engine::{
    Drafter, Engine, EngineOptions, Generation, Job, Request, Sequence, Service, ServiceOptions, Step,
};

use crate::speculation::{check, check_together, engine, guessing, ranks, requests};
use crate::state::{cached_options, converse};
use crate::support::{
    alone, assert_clean, options, prompt, request, run, seeded, service, service_options, unspoilt,
};

const MODEL: &str = "deepseek_v4_smallhca";

fn ngram(num_tokens: usize) -> EngineOptions {
    guessing(Drafter::Ngram, num_tokens)
}

/// The fixture with an MTP layer has blocks of 128 tokens, for the rows that stand for as many.
const WITH_MTP: &str = "deepseek_v4";

const KINDS: [(&str, Drafter, [usize; 2]); 4] = [
    (WITH_MTP, Drafter::Mtp, [1, 6]),
    (WITH_MTP, Drafter::Ngram, [3, 16]),
    (MODEL, Drafter::Ngram, [2, 16]),
    ("deepseek_v4_quant", Drafter::Ngram, [1, 5]),
];

#[test]
fn a_batch_gives_what_it_gives_without_guesses() {
    for (fixture, drafter, [few, many]) in KINDS {
        let reference = engine(fixture, &options());
        for (num_tokens, prefix_cache) in [(many, false), (many, true), (few, true)] {
            let options = EngineOptions { state_snapshots: 9, ..guessing(drafter, num_tokens) };
            let service_options = ServiceOptions { prefix_cache, ..service_options() };
            let service = Service::start(engine(fixture, &options), &service_options).unwrap();
            let (guessed, accepted) = check(&service, &reference, &requests(16));
            assert!(guessed > 30, "{fixture} {options:?}: {guessed} guesses");
            // The fixture's layer was never trained.
            assert!(accepted > 0 || drafter == Drafter::Mtp, "{fixture} {options:?}: {guessed} guesses");
        }
    }
}

#[test]
fn one_at_a_time_too() {
    for (fixture, drafter, counts) in KINDS {
        let reference = engine(fixture, &options());
        for num_tokens in counts {
            let engine = engine(fixture, &guessing(drafter, num_tokens));
            for (i, request) in requests(8).into_iter().enumerate() {
                let plain = alone(&reference, request.clone());
                let what = format!("{fixture}, {num_tokens} guesses of {drafter:?}: request {i}");
                assert_eq!(alone(&engine, request), plain, "{what}");
            }
        }
    }
}

/// A prompt with every token that is drawn, and nearly any of them may be.
fn wild(seed: u64) -> Request {
    let mut request = seeded(request(prompt(0, 240), 60), seed);
    request.sampling.temperature = 3.0;
    request
}

/// The prompt has every token that is drawn, so that each is followed by as many guesses as there may be; and what is drawn
/// from a flat distribution is hardly ever one of them. So nearly every step goes back all the way, across the ends of
/// windows, entries and blocks.
#[test]
fn wrong_guesses_of_every_length() {
    let context = EngineOptions { context_len: Some(360), ..options() };
    let reference = engine(MODEL, &context);
    let plain: Vec<_> = (0..3).map(|i| alone(&reference, wild(i))).collect();
    for num_tokens in 1..=16 {
        let speculation = ngram(num_tokens).speculation;
        let engine = engine(MODEL, &EngineOptions { speculation, state_snapshots: 5, ..context.clone() });
        let service = service(&engine);
        let heard = run(&service, (0..3).map(|i| Job::new(wild(i))).collect());
        for (heard, plain) in heard.iter().zip(&plain) {
            assert_eq!((&heard.failed, &heard.sampled[0]), (&None, plain), "{num_tokens} guesses");
            let stats = heard.finishes[0].unwrap().1;
            let (guessed, accepted) = (stats.guessed_tokens, stats.accepted_tokens);
            assert!(guessed > 40 * num_tokens, "{num_tokens} guesses: {stats:?}");
            assert!(accepted < 6, "{num_tokens} guesses: {stats:?}");
        }
        assert_clean(&service);
        assert_eq!(alone(&engine, wild(0)), plain[0], "{num_tokens} guesses, alone");
    }
}

#[test]
fn a_pool_so_small_that_sequences_lose_their_blocks() {
    let reference = engine(MODEL, &options());
    for state_snapshots in [0, 4] {
        let (tight, watch) =
            unspoilt(MODEL, &EngineOptions { max_sequences: 1, state_snapshots, ..ngram(5) });
        let service = service(&tight);
        check_together(&service, &watch, &reference, &requests(24));
        assert!(service.metrics().num_preemptions > 0);
    }
}

#[test]
fn siblings_and_ranks_too() {
    for (fixture, drafter) in [(MODEL, Drafter::Ngram), (WITH_MTP, Drafter::Mtp)] {
        let reference = ranks(fixture, 2, &options()).unwrap();
        let guessing = EngineOptions { state_snapshots: 4, ..guessing(drafter, 4) };
        let service = service(&ranks(fixture, 2, &guessing).unwrap());
        check(&service, &reference, &requests(6));
        let request = seeded(request(prompt(1, 10), 15), 5);
        let heard = run(&service, vec![Job { n: 3, ..Job::new(request.clone()) }]).remove(0);
        for index in 0..3 {
            let single = alone(&reference, seeded(request.clone(), 5 + index as u64));
            assert_eq!(heard.sampled[index], single, "{fixture} sibling {index}");
        }
        assert_clean(&service);
    }
}

/// Snapshots are taken behind guesses, and gone on from.
#[test]
fn turns_with_a_prefix_cache() {
    let reference = engine(MODEL, &options());
    for num_tokens in [2, 16] {
        let speculation = ngram(num_tokens).speculation;
        let cached = engine(MODEL, &EngineOptions { speculation, ..cached_options(96) });
        converse(&cached, &reference, 120);
    }
}

#[test]
fn long_turns_with_a_prefix_cache() {
    let long = EngineOptions { context_len: Some(512), max_sequences: 1, ..options() };
    let speculation = guessing(Drafter::Mtp, 3).speculation;
    let cached = engine(WITH_MTP, &EngineOptions { speculation, ..cached_options(512) });
    converse(&cached, &engine(WITH_MTP, &long), 30);
}

/// The same with room for a single snapshot, and answers that end wherever their guesses happen to be: what one left is
/// what the next turn finds.
#[test]
fn a_turn_goes_on_behind_an_answer_that_was_cut_short() {
    let context = EngineOptions { context_len: Some(360), ..options() };
    let (reference, speculation) = (engine(MODEL, &context), ngram(11).speculation);
    let engine = engine(MODEL, &EngineOptions { speculation, state_snapshots: 1, ..context });
    let service = service(&engine);
    let mut hits = 0;
    for i in 0..40 {
        let mut answered = wild(i);
        let plain: Vec<u32> = alone(&reference, answered.clone()).iter().map(|s| s.token).collect();
        let cut = &plain[..i as usize];
        answered.stop_token_ids = vec![plain[cut.len()]];
        let next = request([&answered.prompt, cut, &[7, 8]].concat(), 3);
        run(&service, vec![Job::new(answered)]);
        let heard = run(&service, vec![Job::new(next.clone())]).remove(0);
        assert_eq!((heard.failed, &heard.sampled[0]), (None, &alone(&reference, next)), "answer {i}");
        hits += usize::from(heard.cached_tokens > Some(0));
    }
    assert!(hits > 2, "{hits} of 40 turns from the cache");
}

fn finish(mut generation: Generation) -> (Vec<u32>, Sequence) {
    let mut tokens = Vec::new();
    while let Some(step) = generation.step() {
        if let Step::Token(sampled) = step.unwrap() {
            tokens.push(sampled.token);
        }
    }
    (tokens, generation.into_sequence())
}

/// A conversation that forks from its past goes back as far as a step may guess, and else begins again.
#[test]
fn a_kept_sequence_goes_back_a_few_tokens() {
    let (guessing, reference) = (engine(MODEL, &ngram(5)), engine(MODEL, &options()));
    let fork = |sequence: Sequence, kept: &[u32], back: usize, len: usize| -> (usize, Sequence) {
        let turn = [&kept[..len - back], &[200 + back as u32, 7, 8]].concat();
        let resumed: &Arc<Engine> = &guessing;
        let generation = resumed.resume(sequence, request(turn.clone(), 1)).unwrap();
        let cached = generation.stats().cached_tokens;
        let (tokens, sequence) = finish(generation);
        let expected: Vec<u32> =
            alone(&reference, request(turn, 1)).iter().map(|sampled| sampled.token).collect();
        assert_eq!(tokens, expected, "back {back} of {len}");
        (cached, sequence)
    };
    for len in 20..45 {
        for back in 0..=7 {
            let ask: Vec<u32> = prompt(0, len);
            let (_, sequence) = finish(guessing.generate(request(ask.clone(), 1)).unwrap());
            assert_eq!(sequence.len(), len as usize, "a single token needs no guess");
            let (cached, sequence) = fork(sequence, &ask, back, len as usize);
            let kept = len as usize - back;
            assert_eq!(cached, if back <= 5 { kept } else { 0 }, "back {back} of {len}");
            // The turn took 3 tokens more; from there the same again.
            let kept: Vec<u32> = sequence.tokens().to_vec();
            let reached = if back <= 5 { kept.len().max(len as usize) } else { kept.len() };
            let (cached, _) = fork(sequence, &kept, 4, kept.len());
            assert_eq!(cached, if reached - (kept.len() - 4) <= 5 { kept.len() - 4 } else { 0 });
        }
    }
}
