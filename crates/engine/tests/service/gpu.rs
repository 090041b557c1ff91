//! A service on a GPU: recorded steps of many sequences, padded to their bucket, and a GPU that is lost.

use std::sync::Arc;

use comm::Solo;
use engine::{
    Drafter, Engine, EngineOptions, Job, Rank, Request, Sampled, Service, Speculation, SubmitError,
};
use kernels::{CudaOptions, Device, Precision};
use testkit::{Fixture, soft_gpu};

use crate::faults::Multiples;
use crate::support::{Heard, alone, assert_clean, eventually, prompt, request, run, seeded, service_options};

fn engine(fixture: &str, record_decode: bool) -> Arc<Engine> {
    engine_with(fixture, EngineOptions { record_decode, ..EngineOptions::default() })
}

fn engine_with(fixture: &str, options: EngineOptions) -> Arc<Engine> {
    let cuda = CudaOptions { precision: Precision::Bf16, ..CudaOptions::default() };
    let device = Device::cuda(&cuda).unwrap();
    let checkpoint = Fixture::open(fixture).checkpoint();
    let model = models::load(&checkpoint, &device, Arc::new(Solo), &mut |_| {}).unwrap();
    let options = EngineOptions { context_len: Some(64), max_sequences: 8, state_snapshots: 4, ..options };
    Engine::new(vec![Rank::solo(model, device)], &options).unwrap()
}

fn service(engine: &Arc<Engine>) -> Service {
    Service::start(Arc::clone(engine), &service_options()).unwrap()
}

fn requests() -> Vec<Request> {
    let mut requests: Vec<_> = (0..5).map(|i| request(prompt(i, 3 + 7 * i), 5 + i as usize % 2)).collect();
    requests[1] = seeded(requests[1].clone(), 1);
    requests[2] = seeded(requests[2].clone(), 2);
    requests[2].sampling.logprobs = Some(3);
    requests
}

#[test]
fn batched_steps_are_single_steps_recorded_or_not() {
    let _gpu = soft_gpu();
    for (fixture, records) in [
        ("deepseek_v3", true),
        ("deepseek_v3", false),
        ("deepseek_v32", true),
        ("deepseek_v4_smallhca", true),
        ("deepseek_v4_smallhca", false),
        ("qwen2_distill", true),
    ] {
        let what = format!("{fixture}, recorded {records}");
        let engine = engine(fixture, records);
        let service = service(&engine);
        let heard = run(&service, requests().into_iter().map(Job::new).collect());
        for (heard, request) in heard.iter().zip(requests()) {
            assert_eq!(heard.failed, None, "{what}");
            assert_eq!(heard.sampled[0], alone(&engine, request), "{what}");
        }
        assert_clean(&service);
    }
}

/// V4: what its slots hold goes to snapshots and back, between kernels that read and write them.
#[test]
fn a_cached_prefix_goes_on_from_its_snapshot() {
    let _gpu = soft_gpu();
    let engine = engine("deepseek_v4_smallhca", true);
    let service = service(&engine);
    for round in 0..2 {
        let heard = run(&service, requests().into_iter().map(Job::new).collect());
        for (heard, request) in heard.iter().zip(requests()) {
            assert_eq!(heard.failed, None);
            let cached = if round == 1 && request.prompt.len() > 16 { 16 } else { 0 };
            assert_eq!(heard.cached_tokens, Some(cached), "{} tokens", request.prompt.len());
            assert_eq!(heard.sampled[0], alone(&engine, request), "round {round}");
        }
    }
    // The state behind a block that an answer filled, in a step that was recorded.
    let question = requests().remove(4);
    let answer = run(&service, vec![Job::new(question.clone())]).remove(0).tokens(0);
    let next = request([&question.prompt[..], &answer, &[7]].concat(), 4);
    let heard = run(&service, vec![Job::new(next.clone())]).remove(0);
    assert_eq!((heard.failed, heard.cached_tokens), (None, Some(32)));
    assert_eq!(heard.sampled[0], alone(&engine, next));
    assert_clean(&service);
}

/// The same tokens; a step with more rows may add up in another order, which the last digits of logprobs show.
fn assert_same(ours: &[Sampled], theirs: &[Sampled], what: &str) {
    let tokens = |sampled: &[Sampled]| sampled.iter().map(|sampled| sampled.token).collect::<Vec<u32>>();
    assert_eq!(tokens(ours), tokens(theirs), "{what}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        let apart = ours.logprob.zip(theirs.logprob).map_or(0.0, |(ours, theirs)| (ours - theirs).abs());
        assert!(apart < 1e-4, "{what}: {ours:?} and {theirs:?}");
    }
}

#[test]
fn guesses_are_made_and_checked_on_a_gpu() {
    let gpu = soft_gpu();
    for (fixture, drafter, record_decode) in [
        ("deepseek_v3_mtp", Drafter::Mtp, true),
        ("deepseek_v3_mtp", Drafter::Mtp, false),
        ("deepseek_v3_mtp", Drafter::Ngram, true),
        ("deepseek_v4_smallhca", Drafter::Ngram, true),
        ("deepseek_v4", Drafter::Mtp, true),
    ] {
        let what = format!("{fixture} {drafter:?}, recorded {record_decode}");
        let reference = engine(fixture, false);
        let speculation = Some(Speculation { drafter, num_tokens: 2 });
        let guessing = EngineOptions { speculation, record_decode, ..EngineOptions::default() };
        let guessing = engine_with(fixture, guessing);
        let service = service(&guessing);
        let launches = || gpu.driver().map_or(0, |driver| driver.graph_launches());
        let before = launches();
        // Answers of the first words of their prompts.
        let mut requests = requests();
        for Request { prompt, sampling, .. } in &mut requests {
            sampling.logit_bias.extend(prompt[..3].iter().map(|&token| (token, 50.0)));
        }
        let lone = requests[0].clone();
        let heard = run(&service, requests.iter().cloned().map(Job::new).collect());
        for (heard, request) in heard.iter().zip(requests) {
            assert_eq!(heard.failed, None, "{what}");
            assert_same(&heard.sampled[0], &alone(&reference, request), &what);
        }
        let steps = service.metrics().spec_decode_num_drafts;
        // The layer guesses after every step, not only after those that are launched.
        assert!(steps > if drafter == Drafter::Mtp { 10 } else { 0 }, "{what}: {steps}");
        // How many, depends on when the requests came: a step with a prompt in it is not recorded.
        let replayed = launches() - before;
        assert!(gpu.driver().is_none() || (replayed > 0) == record_decode, "{what}: {replayed} replays");
        // Of one request alone all decode steps are recorded, those with guesses too.
        let before = launches();
        let heard = run(&service, vec![Job::new(lone)]).remove(0);
        let stats = heard.finishes[0].unwrap().1;
        assert!(stats.guessed_tokens > 0, "{what}: {stats:?}");
        let expected = if record_decode { stats.decode_steps } else { 0 };
        assert!(gpu.driver().is_none() || launches() - before == expected, "{what}: {stats:?}");
        assert_clean(&service);
    }
}

#[test]
fn siblings_and_masks_on_a_gpu() {
    let _gpu = soft_gpu();
    let engine = engine("deepseek_v3", true);
    let service = service(&engine);
    let pair = seeded(request(prompt(0, 10), 5), 3);
    let constraint = Some(Box::new(Multiples::new(3, 240)) as Box<dyn engine::Constraint>);
    let jobs = vec![
        Job { n: 2, ..Job::new(pair.clone()) },
        Job { constraint, ..Job::new(request(prompt(1, 9), 5)) },
    ];
    let heard = run(&service, jobs);
    assert_eq!(heard[0].sampled[0], alone(&engine, pair.clone()));
    assert_eq!(heard[0].sampled[1], alone(&engine, seeded(pair, 4)), "it parted by a copy of a block");
    assert!(heard[1].tokens(0).iter().all(|token| token % 3 == 0 && *token < 240));
    assert_eq!(heard[1].tokens(0).len(), 5);
    assert_clean(&service);
}

#[test]
fn a_lost_gpu_is_the_end_of_all() {
    let gpu = soft_gpu();
    let Some(driver) = gpu.driver() else { return };
    let engine = engine("deepseek_v3", true);
    let service = service(&engine);
    driver.fail_next(c"add_assign_f32");
    let jobs = requests().into_iter().map(Job::new);
    let mut events: Vec<_> = jobs.filter_map(|job| service.submit(job).ok()).collect();
    for events in &mut events {
        let (error, is_request) = Heard::all(events).failed.unwrap();
        assert!(error.contains("CUDA_ERROR_LAUNCH_FAILED") && !is_request, "{error}");
    }
    eventually("death", || !service.health().alive);
    assert!(matches!(service.submit(Job::new(requests().remove(0))), Err(SubmitError::Dead { .. })));
    drop((service, engine));
    driver.reset_errors();
}
