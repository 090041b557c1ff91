//! What a request gives does not depend on what else runs.

use std::sync::Arc;

use engine::{Engine, EngineOptions, Job, Request, SamplingParams, Service, ServiceOptions};
use models::{IndexFormat, ModelOptions};

use crate::support::{
    Heard, alone, assert_clean, engine, options, prompt, ranks, request, run, run_together, seeded, service,
    service_options, watched, watched_in,
};

/// Requests of mixed lengths: greedy ones, seeded ones with every parameter, some with alternatives. Many begin alike.
fn mixed(count: u32) -> Vec<Request> {
    let one = |i: u32| {
        let base = request(prompt(i % 5, 1 + i * 29 % 60), 1 + (i * 7 % 19) as usize);
        match i % 4 {
            0 | 1 => base,
            2 => seeded(base, u64::from(i)),
            _ => {
                let params = SamplingParams {
                    temperature: 0.8,
                    top_k: 40,
                    top_p: 0.9,
                    repetition_penalty: 1.1,
                    presence_penalty: 0.3,
                    frequency_penalty: 0.2,
                    logprobs: Some((i % 3) as usize),
                    seed: Some(u64::from(i)),
                    ..base.sampling
                };
                Request { sampling: params, ..base }
            }
        }
    };
    (0..count).map(one).collect()
}

/// Runs `requests` at once and compares each with itself alone.
fn check(what: &str, service: &Service, reference: &Arc<Engine>, requests: &[Request]) -> Vec<Heard> {
    let heard = run(service, requests.iter().cloned().map(Job::new).collect());
    compare(what, service, reference, requests, &heard);
    heard
}

fn compare(what: &str, service: &Service, reference: &Arc<Engine>, requests: &[Request], heard: &[Heard]) {
    for (i, (heard, request)) in heard.iter().zip(requests).enumerate() {
        assert_eq!(heard.failed, None, "{what}: request {i}");
        assert_eq!(heard.sampled[0], alone(reference, request.clone()), "{what}: request {i}");
    }
    assert_clean(service);
}

#[test]
fn batched_equals_alone_with_and_without_prefix_cache() {
    let requests = mixed(64);
    for prefix_cache in [true, false] {
        let (engine, watch) = watched("deepseek_v2_lite", &options());
        let options = ServiceOptions { prefix_cache, ..service_options() };
        let service = Service::start(Arc::clone(&engine), &options).unwrap();
        let what = format!("prefix cache {prefix_cache}");
        let heard = run_together(&service, &watch, requests.iter().cloned().map(Job::new).collect());
        let most = watch.forwards().into_iter().max();
        assert!(most > Some(32), "{what}: the requests ran together");
        for (i, (heard, request)) in heard.iter().zip(&requests).enumerate() {
            assert_eq!(heard.sampled[0], alone(&engine, request.clone()), "{what}: request {i}");
        }
        let cached: usize = heard.iter().filter_map(|heard| heard.cached_tokens).sum();
        assert_eq!(cached > 0, prefix_cache, "{what}: {cached} tokens were cached");
        let metrics = service.metrics();
        assert_eq!(metrics.prefix_cache_hits, cached as u64);
        assert_eq!(metrics.num_preemptions, 0);
        assert_clean(&service);
    }
}

#[test]
fn a_pool_so_small_that_sequences_lose_their_blocks() {
    // Room for one and a half contexts: most of what runs is preempted at some time.
    for prefix_cache in [true, false] {
        let reference = engine("deepseek_v2_lite", &options());
        let (tight, watch) = watched("deepseek_v2_lite", &EngineOptions { max_sequences: 1, ..options() });
        let options = ServiceOptions { prefix_cache, ..service_options() };
        let service = Service::start(tight, &options).unwrap();
        let requests = mixed(64);
        let heard = run_together(&service, &watch, requests.iter().cloned().map(Job::new).collect());
        compare("tight", &service, &reference, &requests, &heard);
        let metrics = service.metrics();
        assert!(metrics.num_preemptions > 3, "{} preemptions", metrics.num_preemptions);
    }
}

#[test]
fn every_family_batches() {
    for fixture in ["deepseek_v3", "deepseek_v32", "llama3_distill"] {
        let engine = engine(fixture, &options());
        check(fixture, &service(&engine), &engine, &mixed(12));
    }
}

/// Packed index keys in shared and copied blocks: what was cached gives the texts of what was not.
#[test]
fn an_indexer_in_fp8_batches_with_and_without_prefix_cache() {
    let forms = ModelOptions { index: IndexFormat::Fp8, ..Default::default() };
    let (engine, _) = watched_in("deepseek_v32", forms, &options());
    let texts = |prefix_cache| {
        let options = ServiceOptions { prefix_cache, ..service_options() };
        let service = Service::start(Arc::clone(&engine), &options).unwrap();
        // Twice: by the second time every prompt is cached.
        let heard = [0, 1].map(|_| check("fp8", &service, &engine, &mixed(24)));
        let cached: usize = heard.iter().flatten().filter_map(|heard| heard.cached_tokens).sum();
        assert_eq!(cached > 0, prefix_cache, "{cached} tokens were cached");
        heard.map(|heard| heard.iter().map(|heard| heard.tokens(0)).collect::<Vec<_>>())
    };
    let [first, second] = texts(true);
    assert_eq!(first, second);
    assert_eq!([first, second], texts(false));
}

#[test]
fn ranks_batch_too() {
    let (engine, _) = ranks("deepseek_v2_lite", 2);
    check("two ranks", &service(&engine), &engine, &mixed(16));
}

#[test]
fn siblings_are_single_runs_with_the_seeds_that_follow() {
    for max_sequences in [64, 1] {
        let reference = engine("deepseek_v2_lite", &options());
        let (engine, watch) = watched("deepseek_v2_lite", &EngineOptions { max_sequences, ..options() });
        let service = service(&engine);
        // A prompt that ends within a block, so that siblings must part from it by copies.
        for len in [42, 40, 1] {
            let request = seeded(request(prompt(1, len), 15), u64::MAX - 1);
            let job = Job { n: 3, ..Job::new(request.clone()) };
            let before = watch.forwards().iter().sum::<usize>();
            let heard = run(&service, vec![job]).remove(0);
            let computed = watch.forwards().iter().sum::<usize>() - before;
            for index in 0..3 {
                let seed = (u64::MAX - 1).wrapping_add(index as u64);
                let single = alone(&reference, seeded(request.clone(), seed));
                assert_eq!(heard.sampled[index], single, "{len} tokens, sibling {index}");
                assert_eq!(heard.finishes[index].unwrap().1.seed, seed);
            }
            assert_ne!(heard.tokens(0), heard.tokens(1));
            assert!(computed <= len as usize + 3 * 14, "the prompt was computed once: {computed}");
            assert_clean(&service);
        }
    }
}

#[test]
fn siblings_without_a_seed_differ() {
    let engine = engine("deepseek_v2_lite", &options());
    let mut request = seeded(request(prompt(0, 8), 20), 0);
    request.sampling.seed = None;
    let heard = run(&service(&engine), vec![Job { n: 2, ..Job::new(request.clone()) }]).remove(0);
    assert_ne!(heard.tokens(0), heard.tokens(1));
    let seed = heard.finishes[1].unwrap().1.seed;
    assert_eq!(heard.sampled[1], alone(&engine, seeded(request, seed)), "the seed that is told repeats it");
}

#[test]
fn salts_do_not_meet_in_the_cache() {
    let service = service(&engine("deepseek_v2_lite", &options()));
    let cached = |salt| {
        let job = Job { salt, ..Job::new(request(prompt(0, 40), 2)) };
        run(&service, vec![job]).remove(0).cached_tokens
    };
    assert_eq!([cached(1), cached(2), cached(1), cached(2)], [Some(0), Some(0), Some(36), Some(36)]);
    assert!(service.metrics().prefix_misses.salt > 0);
}

#[test]
fn a_finished_answer_is_a_prefix() {
    let service = service(&engine("deepseek_v2_lite", &options()));
    let mut turn = prompt(0, 21);
    let first = run(&service, vec![Job::new(request(turn.clone(), 12))]).remove(0);
    turn.extend(first.tokens(0));
    turn.push(7);
    let second = run(&service, vec![Job::new(request(turn.clone(), 3))]).remove(0);
    assert_eq!(second.cached_tokens, Some(32), "all whole blocks of prompt and answer");
    assert_eq!(second.sampled[0], alone(service.engine(), request(turn, 3)));
    let stats = second.finishes[0].unwrap().1;
    assert_eq!((stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens), (34, 32, 3));
}
