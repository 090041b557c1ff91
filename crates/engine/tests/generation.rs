//! Generations over the smallest fixture: chunking, limits, cancellation, sharing, reuse.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use engine::{
    Engine, EngineError, EngineOptions, FinishReason, Generation, LogitRows, Rank, Request, SamplingParams,
    Step,
};
use kernels::{DType, Device};
use models::StepContext;
use testkit::Fixture;

fn engine_with(options: &EngineOptions) -> Result<Arc<Engine>, EngineError> {
    let fixture = Fixture::open("deepseek_v2_lite");
    let model = models::load(&fixture.checkpoint(), &Device::Cpu, Arc::new(comm::Solo), &mut |_| {}).unwrap();
    Engine::new(vec![Rank::solo(model, Device::Cpu)], options)
}

fn engine(prefill_chunk: usize, max_sequences: usize) -> Arc<Engine> {
    let options = EngineOptions {
        context_len: Some(96),
        prefill_chunk,
        max_sequences,
        poison_cache: true,
        ..Default::default()
    };
    engine_with(&options).unwrap()
}

fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 37 + 11) % 256).collect()
}

fn request(len: u32, max_tokens: usize, sampling: SamplingParams) -> Request {
    Request { sampling, max_tokens: Some(max_tokens), ..Request::new(prompt(len)) }
}

fn seeded(seed: u64) -> SamplingParams {
    SamplingParams { seed: Some(seed), ..Default::default() }
}

fn tokens(steps: &[Step]) -> Vec<u32> {
    let token = |step: &Step| match step {
        Step::Token(sampled) => Some(sampled.token),
        _ => None,
    };
    steps.iter().filter_map(token).collect()
}

fn run(generation: &mut Generation) -> Vec<Step> {
    generation.map(Result::unwrap).collect()
}

fn generate(engine: &Arc<Engine>, request: Request) -> Vec<u32> {
    tokens(&run(&mut engine.generate(request).unwrap()))
}

#[test]
fn chunks_do_not_change_the_tokens() {
    let whole = generate(&engine(64, 1), request(40, 12, SamplingParams::greedy()));
    assert_eq!(whole.len(), 12);
    for chunk in [1, 7, 16, 39, 40] {
        assert_eq!(generate(&engine(chunk, 1), request(40, 12, SamplingParams::greedy())), whole, "{chunk}");
    }
}

#[test]
fn a_cache_of_packed_rows_generates_the_same_in_chunks() {
    let with = |prefill_chunk| {
        let kv_dtype = Some(DType::F8E4M3);
        let sizes = EngineOptions { context_len: Some(96), prefill_chunk, ..Default::default() };
        engine_with(&EngineOptions { kv_dtype, poison_cache: true, ..sizes }).unwrap()
    };
    let whole = generate(&with(64), request(40, 12, SamplingParams::greedy()));
    assert_eq!(whole.len(), 12);
    assert_eq!(generate(&with(7), request(40, 12, SamplingParams::greedy())), whole);
}

/// Three bits of mantissa where BF16 has seven: sixteen times its error, and no more.
#[test]
fn packed_rows_cost_what_their_bits_do() {
    let logits = |kv_dtype| {
        let options = EngineOptions { kv_dtype: Some(kv_dtype), context_len: Some(96), ..Default::default() };
        let engine = engine_with(&options).unwrap();
        let mut ctx = StepContext::new(engine.device());
        let step = engine.extend(&mut ctx, &mut engine.sequence(), &prompt(40), LogitRows::All).unwrap();
        step.logits.unwrap().to_vec_f32()
    };
    let exact = logits(DType::F32);
    let off = |kv_dtype| -> f64 {
        let squares = exact.iter().zip(logits(kv_dtype)).map(|(a, b)| f64::from(a - b) * f64::from(a - b));
        squares.sum::<f64>().sqrt()
    };
    let ratio = off(DType::F8E4M3) / off(DType::BF16);
    assert!((8.0..32.0).contains(&ratio), "{ratio}");
}

#[test]
fn prefill_reports_each_chunk() {
    let engine = engine(16, 1);
    let mut generation = engine.generate(request(40, 2, SamplingParams::greedy())).unwrap();
    let steps = run(&mut generation);
    assert_eq!(steps[..2], [Step::Prefill { done: 16, total: 40 }, Step::Prefill { done: 32, total: 40 }]);
    assert!(matches!(steps[2], Step::Token(_)));
    assert_eq!(steps[4..], [Step::Finish(FinishReason::Length)]);
    let stats = generation.stats();
    assert_eq!((stats.prompt_tokens, stats.generated_tokens, stats.decode_steps), (40, 2, 1));
    assert!(stats.time_to_first_token.unwrap() >= stats.prefill);
    assert!(stats.prefill_tokens_per_second() > 0.0 && stats.decode_tokens_per_second() > 0.0);
}

#[test]
fn a_stop_token_ends_and_is_not_part_of_the_output() {
    let engine = engine(64, 1);
    let free = generate(&engine, request(10, 20, SamplingParams::greedy()));
    let stop = free[5];
    let first = free.iter().position(|&t| t == stop).unwrap();
    let stopped = Request { stop_token_ids: vec![stop], ..request(10, 20, SamplingParams::greedy()) };
    let steps = run(&mut engine.generate(stopped).unwrap());
    assert_eq!(tokens(&steps), free[..first]);
    assert_eq!(steps.last(), Some(&Step::Finish(FinishReason::Stop(stop))));
}

#[test]
fn the_context_is_the_last_limit() {
    let engine = engine(64, 1);
    let endless = Request { max_tokens: None, ..request(90, 1, SamplingParams::greedy()) };
    let steps = run(&mut engine.generate(endless).unwrap());
    assert_eq!(tokens(&steps).len(), 6);
    assert_eq!(steps.last(), Some(&Step::Finish(FinishReason::Length)));
}

#[test]
fn a_seed_gives_the_same_tokens_whatever_else_runs() {
    let engine = engine(16, 3);
    let alone = generate(&engine, request(20, 16, seeded(5)));
    let mut mine = engine.generate(request(20, 16, seeded(5))).unwrap();
    let mut other = engine.generate(request(33, 30, seeded(6))).unwrap();
    let mut third = engine.generate(request(9, 30, seeded(5))).unwrap();
    let mut steps = Vec::new();
    while let Some(step) = mine.step() {
        steps.push(step.unwrap());
        other.step();
        third.step();
    }
    assert_eq!(tokens(&steps), alone);
    let again = generate(&engine, request(20, 16, seeded(8)));
    assert_ne!(again, alone, "another seed");
    engine.allocator().check_integrity().unwrap();
}

#[test]
fn threads_share_an_engine() {
    let engine = engine(8, 4);
    let expected: Vec<Vec<u32>> =
        (0..4).map(|seed| generate(&engine, request(12 + seed, 10, seeded(u64::from(seed))))).collect();
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let engine = Arc::clone(&engine);
            std::thread::spawn(move || generate(&engine, request(12 + seed, 10, seeded(u64::from(seed)))))
        })
        .collect();
    let found: Vec<Vec<u32>> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(found, expected);
    assert_eq!(engine.allocator().num_free_blocks(), engine.allocator().num_blocks());
}

#[test]
fn cancelling_and_dropping_return_the_blocks() {
    let engine = engine(8, 1);
    let mut generation = engine.generate(request(40, 20, SamplingParams::greedy())).unwrap();
    assert!(matches!(generation.step(), Some(Ok(Step::Prefill { .. }))));
    generation.cancel_handle().cancel();
    assert!(matches!(generation.step(), Some(Ok(Step::Finish(FinishReason::Cancelled)))));
    assert!(generation.step().is_none());
    drop(generation);
    let mut dropped = engine.generate(request(40, 20, SamplingParams::greedy())).unwrap();
    dropped.step();
    drop(dropped);
    assert_eq!(engine.allocator().num_free_blocks(), engine.allocator().num_blocks());
    engine.allocator().check_integrity().unwrap();
}

#[test]
fn a_kept_sequence_saves_the_shared_prefix_and_changes_nothing() {
    let engine = engine(64, 2);
    let mut first = engine.generate(request(30, 8, SamplingParams::greedy())).unwrap();
    let answer = tokens(&run(&mut first));
    let sequence = first.into_sequence();
    let mut turn: Vec<u32> = prompt(30);
    turn.extend(&answer);
    turn.extend([3, 5, 7]);
    let next =
        || Request { max_tokens: Some(8), sampling: SamplingParams::greedy(), ..Request::new(turn.clone()) };
    let mut resumed = engine.resume(sequence, next()).unwrap();
    let found = tokens(&run(&mut resumed));
    // The last token of the answer was sampled but never fed.
    assert_eq!(resumed.stats().cached_tokens, 37);
    assert_eq!(found, generate(&engine, next()));
    // A prompt that leaves the path early keeps only what it shares, and one equal token is always computed anew.
    let sequence = resumed.into_sequence();
    let mut other = prompt(12);
    other.push(255);
    let mut resumed =
        engine.resume(sequence, Request { max_tokens: Some(4), ..Request::new(other) }).unwrap();
    run(&mut resumed);
    assert_eq!(resumed.stats().cached_tokens, 12);
    let same = Request { max_tokens: Some(4), ..Request::new(prompt(12)) };
    let resumed = engine.resume(resumed.into_sequence(), same).unwrap();
    assert_eq!(resumed.stats().cached_tokens, 11);
}

#[test]
fn a_full_pool_is_an_error_and_the_engine_lives_on() {
    let engine = engine(96, 1);
    let mut holder = engine.generate(request(80, 4, SamplingParams::greedy())).unwrap();
    holder.step();
    let mut late = engine.generate(request(40, 4, SamplingParams::greedy())).unwrap();
    assert!(matches!(late.step(), Some(Err(EngineError::Blocks(_)))));
    assert!(late.step().is_none());
    drop((holder, late));
    assert_eq!(generate(&engine, request(40, 4, SamplingParams::greedy())).len(), 4);
}

#[test]
fn requests_are_checked_by_field() {
    let engine = engine(64, 1);
    let valid = || request(10, 4, SamplingParams::greedy());
    let cases = [
        ("prompt", Request { prompt: vec![], ..valid() }),
        ("prompt", Request { prompt: vec![1, 256], ..valid() }),
        ("prompt", request(96, 1, SamplingParams::greedy())),
        ("max_tokens", Request { max_tokens: Some(0), ..valid() }),
        ("max_tokens", Request { max_tokens: Some(87), ..valid() }),
        ("stop_token_ids", Request { stop_token_ids: vec![256], ..valid() }),
        ("top_p", request(10, 4, SamplingParams { top_p: 2.0, ..Default::default() })),
    ];
    for (expected, request) in cases {
        match engine.generate(request) {
            Err(EngineError::Request { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn engine_options_are_checked_by_field() {
    let with = |edit: fn(&mut EngineOptions)| {
        let mut options = EngineOptions { context_len: Some(64), ..Default::default() };
        edit(&mut options);
        engine_with(&options)
    };
    type Edit = fn(&mut EngineOptions);
    let cases: [(&str, Edit); 5] = [
        ("context_len", |o| o.context_len = Some(1)),
        ("context_len", |o| o.context_len = Some(1_000_000)),
        ("kv_dtype", |o| o.kv_dtype = Some(DType::F16)),
        ("prefill_chunk", |o| o.prefill_chunk = 0),
        ("max_sequences", |o| o.max_sequences = 0),
    ];
    for (expected, edit) in cases {
        match with(edit) {
            Err(EngineError::Options { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(matches!(with(|o| o.block_size = 0), Err(EngineError::Blocks(_))));
    let huge = with(|o| (o.context_len, o.max_sequences) = (Some(160_000), 20_000));
    assert!(matches!(huge, Err(EngineError::Memory { .. })), "{huge:?}");
}

#[test]
fn the_cache_dtype_follows_the_checkpoint_unless_told() {
    assert_eq!(engine(64, 1).kv_dtype(), DType::F32, "this fixture is stored in single precision");
    let options = EngineOptions { context_len: Some(64), kv_dtype: Some(DType::BF16), ..Default::default() };
    assert_eq!(engine_with(&options).unwrap().kv_dtype(), DType::BF16);
}
