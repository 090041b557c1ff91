//! A model that keeps state per sequence (V4): the same answers, however its sequences come, part, lose their blocks and go.

use std::sync::Arc;

use engine::{Engine, EngineOptions, Generation, Job, Request, Service, Step};
use testkit::Random;

use crate::support::{
    alone, assert_clean, engine, options, prompt, ranks, ranks_with, request, run, run_together, seeded,
    service, service_options, watched,
};

const MODEL: &str = "deepseek_v4_smallhca";

/// Prompts that begin alike and cross windows, entries and blocks; a third of them sampled.
fn mixed(count: u32) -> Vec<Request> {
    let one = |i: u32| {
        let base = request(prompt(i % 3, 1 + i * 29 % 60), 1 + (i * 7 % 19) as usize);
        if i % 3 == 2 { seeded(base, u64::from(i)) } else { base }
    };
    (0..count).map(one).collect()
}

#[test]
fn batched_equals_alone_without_a_prefix_cache() {
    for name in ["deepseek_v4", MODEL] {
        let reference = engine(name, &options());
        let service = service(&reference);
        let requests = mixed(24);
        let heard = run(&service, requests.iter().cloned().map(Job::new).collect());
        for (i, (heard, request)) in heard.iter().zip(&requests).enumerate() {
            assert_eq!(heard.failed, None, "{name} request {i}");
            assert_eq!(heard.sampled[0], alone(&reference, request.clone()), "{name} request {i}");
            assert_eq!(heard.cached_tokens, Some(0), "blocks without their state are no prefix");
        }
        assert_clean(&service);
    }
}

#[test]
fn sequences_that_lose_their_blocks_begin_again() {
    let reference = engine(MODEL, &options());
    let (tight, watch) = watched(MODEL, &EngineOptions { max_sequences: 1, ..options() });
    let service = Service::start(tight, &service_options()).unwrap();
    // Short prompts and long answers: more are let in than the pool has room for in the end.
    let requests: Vec<Request> = (0..12).map(|i| request(prompt(i % 3, 6 + i), 44)).collect();
    let heard = run_together(&service, &watch, requests.iter().cloned().map(Job::new).collect());
    for (i, (heard, request)) in heard.iter().zip(&requests).enumerate() {
        assert_eq!(heard.sampled[0], alone(&reference, request.clone()), "request {i}");
    }
    let preemptions = service.metrics().num_preemptions;
    assert!(preemptions > 3, "{preemptions} preemptions");
    assert_clean(&service);
}

#[test]
fn siblings_part_with_the_state_of_their_prompt() {
    for max_sequences in [64, 1] {
        let reference = engine(MODEL, &options());
        let service = service(&engine(MODEL, &EngineOptions { max_sequences, ..options() }));
        for len in [42, 40, 1] {
            let request = seeded(request(prompt(1, len), 15), 90);
            let heard = run(&service, vec![Job { n: 3, ..Job::new(request.clone()) }]).remove(0);
            for index in 0..3 {
                let single = alone(&reference, seeded(request.clone(), 90 + index as u64));
                assert_eq!(heard.sampled[index], single, "{len} tokens, sibling {index}");
            }
            assert_ne!(heard.tokens(0), heard.tokens(1));
            assert_clean(&service);
        }
    }
}

#[test]
fn more_requests_than_slots_wait_for_their_turn() {
    let few = engine(MODEL, &EngineOptions { state_slots: 3, ..options() });
    let reference = engine(MODEL, &options());
    let service = Service::start(few, &service_options()).unwrap();
    let requests = mixed(12);
    let heard = run(&service, requests.iter().cloned().map(Job::new).collect());
    for (heard, request) in heard.iter().zip(&requests) {
        assert_eq!(heard.failed, None);
        assert_eq!(heard.sampled[0], alone(&reference, request.clone()));
    }
}

#[test]
fn ranks_keep_the_same_slots() {
    let (engine, _) = ranks(MODEL, 2);
    let service = service(&engine);
    let requests = mixed(8);
    let heard = run(&service, requests.iter().cloned().map(Job::new).collect());
    for (heard, request) in heard.iter().zip(&requests) {
        assert_eq!(heard.sampled[0], alone(&engine, request.clone()));
    }
}

/// A conversation goes on where it stopped; one that forks from its past begins again.
#[test]
fn a_kept_sequence_goes_on_and_never_back() {
    let engine = engine(MODEL, &options());
    let finish = |mut generation: Generation| {
        let mut tokens = Vec::new();
        while let Some(step) = generation.step() {
            if let Step::Token(sampled) = step.unwrap() {
                tokens.push(sampled.token);
            }
        }
        (tokens, generation.into_sequence())
    };
    let mut turn = prompt(0, 21);
    let (answer, sequence) = finish(engine.generate(request(turn.clone(), 12)).unwrap());
    let kept = sequence.len();
    assert!(kept >= 32, "{kept}");
    turn.extend(&answer);
    turn.extend([7, 8]);
    let generation = engine.resume(sequence, request(turn.clone(), 5)).unwrap();
    assert_eq!(generation.stats().cached_tokens, kept);
    let (tokens, sequence) = finish(generation);
    let expected: Vec<u32> =
        alone(&engine, request(turn.clone(), 5)).iter().map(|sampled| sampled.token).collect();
    assert_eq!(tokens, expected);
    let fork = prompt(0, 30);
    let generation = engine.resume(sequence, request(fork.clone(), 5)).unwrap();
    assert_eq!(generation.stats().cached_tokens, 0);
    let expected: Vec<u32> = alone(&engine, request(fork, 5)).iter().map(|sampled| sampled.token).collect();
    assert_eq!(finish(generation).0, expected);
    let allocator = engine.allocator();
    assert_eq!(allocator.num_free_blocks(), allocator.num_blocks());
}

/// Few snapshots and few blocks, so that both are taken away again.
pub(crate) fn cached_options(context_len: usize) -> EngineOptions {
    let context_len = Some(context_len);
    EngineOptions { context_len, max_sequences: 3, state_snapshots: 6, ..options() }
}

/// Turns of conversations that begin with one of three texts, go on from any earlier one or fork from its middle: the answers of
/// `reference`, which keeps nothing, whoever waits for another or loses his blocks. Returns how many turns missed blocks that
/// were known once.
pub(crate) fn converse(cached: &Arc<Engine>, reference: &Arc<Engine>, turns: usize) -> u64 {
    let service = service(cached);
    let context_len = cached.context_len();
    let mut random = Random::new(17);
    let mut histories: Vec<Vec<u32>> = (0..3).map(|kind| prompt(kind, context_len as u32 / 3)).collect();
    let (mut hits, mut tokens) = (0, 0);
    for _ in 0..turns / 5 {
        let requests: Vec<Request> =
            (0..5).map(|_| next_turn(&mut random, &histories, context_len)).collect();
        let heard = run(&service, requests.iter().cloned().map(Job::new).collect());
        for (heard, request) in heard.iter().zip(requests) {
            assert_eq!(heard.failed, None);
            let cached_tokens = heard.cached_tokens.unwrap();
            let words = format!("{cached_tokens} of {} tokens from the cache", request.prompt.len());
            assert_eq!(heard.sampled[0], alone(reference, request.clone()), "{words}");
            tokens += cached_tokens;
            hits += usize::from(cached_tokens > 0);
            histories.push([&request.prompt[..], &heard.tokens(0)].concat());
        }
    }
    // Which turns hit depends on which of a round share a step, the less the more turns there are.
    assert!(hits * 8 > turns, "{hits} of {turns} turns from the cache, {tokens} tokens");
    assert_clean(&service);
    service.metrics().prefix_misses.evicted
}

#[test]
fn two_hundred_turns_with_a_prefix_cache() {
    let reference = engine(MODEL, &options());
    let evicted = converse(&engine(MODEL, &cached_options(96)), &reference, 200);
    assert!(evicted > 0, "nothing was taken away");
}

#[test]
fn long_turns_with_blocks_of_128_tokens() {
    let long = EngineOptions { context_len: Some(512), max_sequences: 1, ..options() };
    converse(&engine("deepseek_v4", &cached_options(512)), &engine("deepseek_v4", &long), 40);
}

#[test]
fn ranks_keep_the_same_snapshots() {
    let (cached, reference) = (ranks_with(MODEL, 2, &cached_options(96)).0, ranks(MODEL, 2).0);
    converse(&cached, &reference, 120);
}

/// What a user says next: behind all of a history or a part of it.
fn next_turn(random: &mut Random, histories: &[Vec<u32>], context_len: usize) -> Request {
    let recent = histories.len().saturating_sub(12);
    let from =
        if random.below(3) == 0 { random.below(3) } else { recent + random.below(histories.len() - recent) };
    let history = &histories[from];
    let most = context_len * 3 / 4;
    let kept = if random.below(2) == 0 { history.len() } else { 1 + random.below(history.len()) };
    let mut tokens = history[..kept.min(most)].to_vec();
    tokens.extend((0..1 + random.below(9)).map(|_| random.below(240) as u32));
    let request = request(tokens, 1 + random.below(9));
    if random.below(3) == 0 { seeded(request, random.next_u64()) } else { request }
}
