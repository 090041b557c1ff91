//! Guessing changes how many tokens a step gives, and nothing else.

use std::sync::Arc;

use checkpoint::Checkpoint;
use comm::{Communicator, Threads};
use engine::{
    Drafter, Engine, EngineError, EngineOptions, Job, Rank, Request, Sampled, SamplingParams, Service,
    ServiceOptions, Speculation,
};
use kernels::Device;
use models::ModelOptions;
use testkit::Fixture;

use crate::faults::{After, Script};
use crate::support::{
    Heard, PATIENCE, Watch, alone, assert_clean, options, prompt, request, run, run_together, seeded,
    service, service_options, unspoilt,
};

#[path = "../../../../models/tests/support/random_model.rs"]
mod random_model;

const WITH_MTP: &str = "deepseek_v3_mtp";

/// Engines that nobody spoils: a guess may be any token, those that nothing samples included.
pub(crate) fn ranks(fixture: &str, size: usize, options: &EngineOptions) -> Result<Arc<Engine>, EngineError> {
    ranks_of(&Fixture::open(fixture).checkpoint(), size, options)
}

fn ranks_of(
    checkpoint: &Checkpoint,
    size: usize,
    options: &EngineOptions,
) -> Result<Arc<Engine>, EngineError> {
    ranks_in(checkpoint, ModelOptions::default(), size, options)
}

/// The same in the forms of `forms`.
pub(crate) fn ranks_in(
    checkpoint: &Checkpoint,
    forms: ModelOptions,
    size: usize,
    options: &EngineOptions,
) -> Result<Arc<Engine>, EngineError> {
    let rank = |threads: Threads| {
        let comm: Arc<dyn Communicator> = Arc::new(threads);
        let shared = Arc::clone(&comm);
        let model = models::load_with(checkpoint, &Device::Cpu, shared, forms, &mut |_| {}).unwrap();
        Rank { model, device: Device::Cpu, comm }
    };
    Engine::new(Threads::group(size, PATIENCE).into_iter().map(rank).collect(), options)
}

pub(crate) fn engine(fixture: &str, options: &EngineOptions) -> Arc<Engine> {
    ranks(fixture, 1, options).unwrap()
}

pub(crate) fn guessing(drafter: Drafter, num_tokens: usize) -> EngineOptions {
    EngineOptions { speculation: Some(Speculation { drafter, num_tokens }), ..options() }
}

fn all() -> [EngineOptions; 4] {
    [(Drafter::Mtp, 1), (Drafter::Mtp, 3), (Drafter::Ngram, 1), (Drafter::Ngram, 5)]
        .map(|(drafter, num_tokens)| guessing(drafter, num_tokens))
}

/// Greedy and drawn, with penalties that count what was guessed, and with alternatives.
pub(crate) fn requests(count: u32) -> Vec<Request> {
    let one = |i: u32| {
        let base = request(prompt(i % 3, 1 + i * 29 % 50), 1 + (i * 17 % 40) as usize);
        match i % 4 {
            0 | 1 => base,
            2 => seeded(base, u64::from(i)),
            _ => {
                let penalties = SamplingParams {
                    // Almost greedy, so that answers repeat themselves and guesses are right.
                    temperature: 0.02,
                    repetition_penalty: 1.01,
                    frequency_penalty: 0.01,
                    logprobs: Some(2),
                    seed: Some(u64::from(i)),
                    ..base.sampling
                };
                Request { sampling: penalties, ..base }
            }
        }
    };
    (0..count).map(one).collect()
}

/// Runs `requests` together and compares each with itself alone and unguessed; how many guesses there were, and how
/// many were right.
pub(crate) fn check(service: &Service, reference: &Arc<Engine>, requests: &[Request]) -> (usize, usize) {
    compare(service, reference, requests, &run(service, requests.iter().cloned().map(Job::new).collect()))
}

/// As [`check`], of requests that are all there before the second step.
pub(crate) fn check_together(
    service: &Service,
    watch: &Watch,
    reference: &Arc<Engine>,
    requests: &[Request],
) -> (usize, usize) {
    let heard = run_together(service, watch, requests.iter().cloned().map(Job::new).collect());
    compare(service, reference, requests, &heard)
}

fn compare(
    service: &Service,
    reference: &Arc<Engine>,
    requests: &[Request],
    heard: &[Heard],
) -> (usize, usize) {
    let what = format!("{:?}", service.engine().speculation());
    let mut sums = (0, 0);
    for (i, (heard, request)) in heard.iter().zip(requests).enumerate() {
        assert_eq!(heard.failed, None, "{what}: request {i}");
        assert_eq!(heard.sampled[0], alone(reference, request.clone()), "{what}: request {i}");
        let stats = heard.finishes[0].unwrap().1;
        assert_eq!(stats.generated_tokens, heard.sampled[0].len());
        // A step after the first token gives a token and what was guessed rightly; the last may give too many.
        let most = stats.generated_tokens + service.engine().speculation().unwrap().num_tokens;
        let given = 1 + stats.decode_steps + stats.accepted_tokens;
        assert!((stats.generated_tokens..=most).contains(&given), "{what}: {stats:?}");
        sums = (sums.0 + stats.guessed_tokens, sums.1 + stats.accepted_tokens);
    }
    let metrics = service.metrics();
    assert_eq!(metrics.spec_decode_num_draft_tokens, sums.0 as u64);
    assert_eq!(metrics.spec_decode_num_accepted_tokens, sums.1 as u64);
    assert_clean(service);
    sums
}

#[test]
fn a_batch_gives_what_it_gives_without_guesses() {
    let reference = engine(WITH_MTP, &options());
    for options in all() {
        for prefix_cache in [true, false] {
            let service_options = ServiceOptions { prefix_cache, ..service_options() };
            let service = Service::start(engine(WITH_MTP, &options), &service_options).unwrap();
            let (guessed, accepted) = check(&service, &reference, &requests(16));
            assert!(guessed > 50, "{options:?}: {guessed} guesses");
            if options.speculation.is_some_and(|s| s.drafter == Drafter::Ngram) {
                assert!(accepted > 0, "{options:?}: none of {guessed} guesses was right");
            }
        }
    }
}

/// V3.2: the draft layer has an indexer and index keys of its own.
#[test]
fn sparse_attention_guesses_too() {
    let (_dir, checkpoint) = random_model::random_model(&random_model::awkward_v32(), 7).open();
    let engine = |options: &EngineOptions| ranks_of(&checkpoint, 1, options).unwrap();
    let reference = engine(&options());
    let greedy: Vec<Request> = (0..16)
        .map(|i| {
            let prompt = prompt(i % 3, 1 + i * 13 % 40).into_iter().map(|token| token % 101).collect();
            let max_tokens = Some(1 + (i * 17 % 40) as usize);
            Request { sampling: SamplingParams::greedy(), max_tokens, ..Request::new(prompt) }
        })
        .collect();
    for options in all() {
        let guessing = engine(&options);
        let (guessed, _) = check(&service(&guessing), &reference, &greedy);
        assert!(guessed > 50, "{options:?}: {guessed} guesses");
        assert_eq!(alone(&guessing, greedy[15].clone()), alone(&reference, greedy[15].clone()));
    }
}

#[test]
fn one_at_a_time_too() {
    let reference = engine(WITH_MTP, &options());
    for options in all() {
        let engine = engine(WITH_MTP, &options);
        for (i, request) in requests(8).into_iter().enumerate() {
            let plain = alone(&reference, request.clone());
            assert_eq!(alone(&engine, request), plain, "{:?}: request {i}", options.speculation);
        }
    }
}

#[test]
fn a_pool_so_small_that_sequences_lose_their_blocks() {
    let reference = engine(WITH_MTP, &options());
    for options in all() {
        let (tight, watch) = unspoilt(WITH_MTP, &EngineOptions { max_sequences: 1, ..options });
        let service = service(&tight);
        check_together(&service, &watch, &reference, &requests(24));
        assert!(service.metrics().num_preemptions > 0);
    }
}

#[test]
fn siblings_and_ranks_too() {
    for options in all() {
        let engine = ranks(WITH_MTP, 2, &options).unwrap();
        let reference = ranks(WITH_MTP, 2, &crate::support::options()).unwrap();
        let service = service(&engine);
        check(&service, &reference, &requests(6));
        let request = seeded(request(prompt(1, 10), 15), 5);
        let heard = run(&service, vec![Job { n: 3, ..Job::new(request.clone()) }]).remove(0);
        for index in 0..3 {
            let single = alone(&reference, seeded(request.clone(), 5 + index as u64));
            assert_eq!(heard.sampled[index], single, "sibling {index}");
        }
        assert_clean(&service);
    }
}

/// What a constraint allows behind a guess is not known yet, so nothing is guessed under one.
#[test]
fn a_constraint_goes_token_by_token() {
    for options in all() {
        let service = service(&engine(WITH_MTP, &options));
        let script = [7, 9, 31, 7, 9, 31, 7, 9, 31, 7, 9, 31];
        let constraint = Some(Script::boxed(&script, After::Anything));
        let jobs = vec![Job { constraint, ..Job::new(request(prompt(0, 10), 12)) }];
        let heard = run(&service, jobs).remove(0);
        assert_eq!((heard.failed.clone(), heard.tokens(0)), (None, script.to_vec()));
        assert_eq!(service.metrics().spec_decode_num_drafts, 0);
    }
}

/// A stop token among the tokens of a step ends the answer there.
#[test]
fn a_stop_token_within_a_step_ends_it() {
    let reference = engine(WITH_MTP, &options());
    let service = service(&engine(WITH_MTP, &guessing(Drafter::Ngram, 8)));
    let request = request(prompt(0, 30), 40);
    let free: Vec<Sampled> = alone(&reference, request.clone());
    for stop in free.iter().map(|sampled| sampled.token) {
        let stopped = Request { stop_token_ids: vec![stop], ..request.clone() };
        let heard: Heard = run(&service, vec![Job::new(stopped.clone())]).remove(0);
        assert_eq!(heard.sampled.first().cloned().unwrap_or_default(), alone(&reference, stopped.clone()));
        assert_eq!(alone(service.engine(), stopped.clone()), alone(&reference, stopped));
    }
    assert_clean(&service);
}

#[test]
fn a_drafter_that_the_checkpoint_lacks_is_refused() {
    let model = |fixture: &str| ranks(fixture, 1, &guessing(Drafter::Mtp, 1));
    let error = model("deepseek_v2_lite").err().unwrap().to_string();
    assert!(error.contains("speculation.drafter"), "{error}");
    assert!(model(WITH_MTP).is_ok());
}
