//! The engine on a GPU: recorded decode steps against launched ones, memory against the plan, a fault in the middle.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use checkpoint::Checkpoint;
use comm::Solo;
use engine::{
    Drafter, Engine, EngineOptions, Job, LogitRows, Rank, Request, SamplingParams, Service, ServiceOptions,
    Speculation, Step,
};
use kernels::{CudaOptions, DType, Device, Precision, ops};
use models::{ExpertFormat, Footprint, IndexFormat, ModelOptions, StepContext};
use testkit::{Fixture, soft_gpu};

fn device(precision: Precision) -> Device {
    Device::cuda(&CudaOptions { precision, ..CudaOptions::default() }).unwrap()
}

fn engine(fixture: &str, device: &Device, record_decode: bool) -> Arc<Engine> {
    engine_with(fixture, device, EngineOptions { record_decode, ..Default::default() })
}

fn engine_with(fixture: &str, device: &Device, options: EngineOptions) -> Arc<Engine> {
    engine_of(fixture, device, ModelOptions::default(), options)
}

fn engine_of(fixture: &str, device: &Device, forms: ModelOptions, options: EngineOptions) -> Arc<Engine> {
    let checkpoint = Checkpoint::open(Fixture::open(fixture).dir()).unwrap();
    let model = models::load_with(&checkpoint, device, Arc::new(Solo), forms, &mut |_| {}).unwrap();
    let options = EngineOptions { context_len: Some(64), max_sequences: 3, ..options };
    Engine::new(vec![Rank::solo(model, device.clone())], &options).unwrap()
}

/// Logits after each of `count` decode steps of two sequences that step in turn.
fn decode(engine: &Engine, count: usize) -> Vec<Vec<f32>> {
    decode_behind(engine, &[7; 17], count)
}

/// The same behind a prompt that V4's indexer has to choose from.
fn decode_longer(engine: &Engine) -> Vec<Vec<f32>> {
    let prompt: Vec<u32> = (0..51).map(|i| i * 89 % 251).collect();
    decode_behind(engine, &prompt, 4)
}

fn decode_behind(engine: &Engine, prompt: &[u32], count: usize) -> Vec<Vec<f32>> {
    let mut ctx = StepContext::new(engine.device());
    let mut sequences = [engine.sequence(), engine.sequence()];
    let mut extend = |i: usize, tokens: &[u32]| {
        let step = engine.extend(&mut ctx, &mut sequences[i], tokens, LogitRows::Last).unwrap();
        step.logits.unwrap().to_vec_f32()
    };
    let mut logits = vec![extend(0, &[5, 9, 2]), extend(1, prompt)];
    for step in 0..count {
        logits.push(extend(step % 2, &[step as u32 * 3 + 1]));
    }
    logits
}

#[test]
fn a_replayed_step_is_the_launched_step_bit_for_bit() {
    let _gpu = soft_gpu();
    for (fixture, precision) in [
        ("deepseek_v3", Precision::F32),
        ("deepseek_v3", Precision::Bf16),
        ("deepseek_v32", Precision::Bf16),
        ("deepseek_v4", Precision::Bf16),
        ("deepseek_v4_smallhca", Precision::F32),
        ("qwen2_distill", Precision::Bf16),
    ] {
        let device = device(precision);
        let launched = decode(&engine(fixture, &device, false), 6);
        let replayed = decode(&engine(fixture, &device, true), 6);
        for (step, (launched, replayed)) in launched.iter().zip(&replayed).enumerate() {
            let bits = |logits: &[f32]| logits.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert!(bits(launched) == bits(replayed), "{fixture} {precision:?}: step {step}");
        }
    }
}

/// What a step leaves for the MTP layer lies where the next one is to write.
#[test]
fn steps_of_all_sizes_are_recorded_though_nobody_guesses() {
    let _gpu = soft_gpu();
    let run = |record_decode: bool| {
        let speculation = Some(Speculation { drafter: Drafter::Mtp, num_tokens: 2 });
        let device = device(Precision::Bf16);
        let options = EngineOptions { speculation, record_decode, ..Default::default() };
        let engine = engine_with("deepseek_v3_mtp", &device, options);
        let (mut ctx, mut sequence) = (StepContext::new(&device), engine.sequence());
        let steps = [&[5, 9, 2, 7][..], &[1], &[2, 3], &[4], &[5, 6, 8]];
        let logits = steps.map(|tokens| {
            let step = engine.extend(&mut ctx, &mut sequence, tokens, LogitRows::All).unwrap();
            let logits = step.logits.unwrap();
            assert_eq!(logits.dim(0), tokens.len());
            logits.to_vec_f32()
        });
        logits.concat()
    };
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert!(bits(run(true)) == bits(run(false)), "a replayed step is the launched one");
}

/// Packed rows hold the same bits wherever they are written, so that only the order of sums differs.
#[test]
fn a_cache_of_packed_rows_gives_the_logits_of_the_cpu() {
    let _gpu = soft_gpu();
    let options =
        || EngineOptions { kv_dtype: Some(DType::F8E4M3), poison_cache: true, ..Default::default() };
    for fixture in ["deepseek_v3", "deepseek_v4", "deepseek_v4_smallhca"] {
        let want = decode(&engine_with(fixture, &Device::Cpu, options()), 4);
        let got = decode(&engine_with(fixture, &device(Precision::F32), options()), 4);
        for (step, (want, got)) in want.iter().zip(&got).enumerate() {
            // A value at the edge between two of the 8 bits may fall to either side.
            let worst = want.iter().zip(got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 5e-3, "{fixture}, step {step}: {worst}");
        }
    }
}

/// Packed index keys and what they are compared with: rounded alike on every device, and in steps that are recorded.
#[test]
fn a_rounded_indexer_gives_the_logits_of_the_cpu() {
    let _gpu = soft_gpu();
    for (fixture, index) in [
        ("deepseek_v32", IndexFormat::Fp8),
        ("deepseek_v4_smallhca", IndexFormat::Fp8),
        ("deepseek_v4_smallhca", IndexFormat::Fp4),
    ] {
        let forms = ModelOptions { index, ..Default::default() };
        let run = |device: &Device, record_decode: bool| {
            let options = EngineOptions { record_decode, poison_cache: true, ..Default::default() };
            decode_longer(&engine_of(fixture, device, forms, options))
        };
        let (want, gpu) = (run(&Device::Cpu, false), device(Precision::F32));
        let (got, replayed) = (run(&gpu, false), run(&gpu, true));
        assert!(got == replayed, "{fixture} {index:?}: a replayed step is the launched one");
        for (step, (want, got)) in want.iter().zip(&got).enumerate() {
            let worst = want.iter().zip(got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3, "{fixture} {index:?}, step {step}: {worst}");
        }
        let exact = decode_longer(&engine(fixture, &Device::Cpu, false));
        assert_ne!(exact.last(), want.last(), "{fixture} {index:?}: another choice");
        // In bf16 the queries and keys that are rounded are themselves off by more than a step.
        let bf16 = run(&device(Precision::Bf16), true).concat();
        assert!(bf16.iter().all(|v| v.is_finite()));
    }
}

/// Integer tensor cores under a whole model: activations of a step are rounded too, so that logits move a little.
#[test]
fn experts_in_int8_answer_nearly_as_those_in_fp8() {
    let _gpu = soft_gpu();
    let device = device(Precision::Bf16);
    let checkpoint = Checkpoint::open(Fixture::open("deepseek_v3_fp8").dir()).unwrap();
    let logits = |experts| {
        let options = ModelOptions { experts, ..Default::default() };
        let model = models::load_with(&checkpoint, &device, Arc::new(Solo), options, &mut |_| {}).unwrap();
        let requantised = !model.int8_experts().is_empty();
        let options = EngineOptions { context_len: Some(64), max_sequences: 2, ..Default::default() };
        let engine = Engine::new(vec![Rank::solo(model, device.clone())], &options).unwrap();
        (requantised, decode(&engine, 4).concat())
    };
    let (requantised, stored) = logits(ExpertFormat::AsStored);
    assert!(!requantised);
    let (requantised, int8) = logits(ExpertFormat::default_for(&device));
    assert!(requantised, "the default of a GPU in bf16");
    let square = |v: f32| f64::from(v) * f64::from(v);
    let distance: f64 = stored.iter().zip(&int8).map(|(a, b)| square(a - b)).sum();
    let apart = (distance / stored.iter().map(|v| square(*v)).sum::<f64>()).sqrt();
    assert!((1e-4..0.05).contains(&apart), "{apart}");
}

#[test]
fn nothing_is_allocated_while_decoding_and_the_plan_holds() {
    let gpu = soft_gpu();
    let device = device(Precision::Bf16);
    let Device::Cuda(cuda) = &device else { panic!("a GPU") };
    let engine = engine("deepseek_v3", &device, true);
    let mut ctx = StepContext::new(&device);
    let mut sequence = engine.sequence();
    let mut extend = |tokens: &[u32]| {
        engine.extend(&mut ctx, &mut sequence, tokens, LogitRows::Last).unwrap();
    };
    extend(&[3; 40]);
    let prefill_peak = cuda.step_memory().0;
    extend(&[1]);
    let allocations = |gpu: &testkit::Gpu| gpu.driver().map(|driver| driver.live_allocations(0));
    let (warm, peak) = (allocations(&gpu), cuda.step_memory());
    (2..20).for_each(|token| extend(&[token]));
    assert_eq!(
        (allocations(&gpu), cuda.step_memory()),
        (warm, peak),
        "after the first decode step nothing grows"
    );
    assert_plan_holds("deepseek_v3", &engine, prefill_peak);
}

/// V4: its maps and tables are planned for as they are kept, its streams as they are computed.
#[test]
fn the_plan_of_a_model_with_state_holds() {
    let _gpu = soft_gpu();
    let device = device(Precision::Bf16);
    let Device::Cuda(cuda) = &device else { panic!("a GPU") };
    for fixture in ["deepseek_v4_smallhca", "deepseek_v4"] {
        let engine = engine(fixture, &device, true);
        let mut ctx = StepContext::new(&device);
        let mut sequence = engine.sequence();
        engine.extend(&mut ctx, &mut sequence, &[3; 40], LogitRows::Last).unwrap();
        assert_plan_holds(fixture, &engine, cuda.step_memory().0);
    }
}

/// A prompt's rows go through the MTP layer too, from the states of all of them.
#[test]
fn the_plan_of_a_model_that_guesses_holds() {
    let _gpu = soft_gpu();
    for fixture in ["deepseek_v3_mtp", "deepseek_v4"] {
        let device = device(Precision::Bf16);
        let Device::Cuda(cuda) = &device else { panic!("a GPU") };
        let speculation = Some(Speculation { drafter: Drafter::Mtp, num_tokens: 2 });
        let options = EngineOptions { speculation, prefill_chunk: 40, ..Default::default() };
        let engine = engine_with(fixture, &device, options);
        let prompt = (0..40).map(|i| i * 89 % 251).collect();
        let sampling = SamplingParams::greedy();
        let request = Request { sampling, max_tokens: Some(8), ..Request::new(prompt) };
        let options = ServiceOptions { max_num_seqs: 3, max_num_batched_tokens: 40, ..Default::default() };
        let service = Service::start(Arc::clone(&engine), &options).unwrap();
        let mut events = service.submit(Job::new(request)).unwrap();
        while events.blocking_recv().is_some() {}
        assert!(service.metrics().spec_decode_num_draft_tokens > 0, "{fixture}: nothing was guessed");
        assert_plan_holds(fixture, &engine, cuda.step_memory().0);
    }
}

/// Weights as planned, and a step of 40 tokens that took `peak` bytes within its part, which is not far too large.
fn assert_plan_holds(fixture: &str, engine: &Engine, peak: u64) {
    let checkpoint = Fixture::open(fixture).checkpoint();
    let Footprint { weight_bytes, step_bytes, .. } =
        Footprint::new(&checkpoint, 1, DType::BF16, 0, 40, ModelOptions::default()).unwrap();
    let kept = engine.model().weight_bytes() as f64;
    let off = (weight_bytes as f64 / kept - 1.0).abs();
    assert!(off < 0.01, "{fixture}: planned {weight_bytes}, kept {kept}");
    // Of an indexer's scores a plan has the most there may ever be; here they are few.
    let scores = if fixture.starts_with("deepseek_v4") { ops::INDEX_SCORE_BYTES as u64 / 4 * 5 } else { 0 };
    let planned = step_bytes - scores;
    assert!(peak <= planned, "{fixture}: planned {planned}, used {peak}");
    assert!(peak * 20 >= planned, "{fixture}: planned {planned}, used {peak}");
}

#[test]
fn a_fault_names_the_op_and_fails_its_request() {
    let gpu = soft_gpu();
    let Some(driver) = gpu.driver() else { return };
    let device = device(Precision::F32);
    let engine = engine("deepseek_v3", &device, true);
    let request =
        || Request { sampling: SamplingParams::greedy(), max_tokens: Some(4), ..Request::new(vec![1, 2, 3]) };
    let mut failing = engine.generate(request()).unwrap();
    driver.fail_next(c"add_assign_f32");
    let error = failing.step().unwrap().unwrap_err().to_string();
    assert!(error.contains("CUDA_ERROR_LAUNCH_FAILED") && error.contains("cuda:0"), "{error}");
    assert!(failing.step().is_none(), "the generation is over");
    drop(failing);
    assert_eq!(engine.allocator().num_free_blocks(), engine.allocator().num_blocks());
    let next = engine.generate(request()).unwrap().step().unwrap();
    assert!(next.is_err(), "a context that faulted is lost, and says so");
    drop(engine);
    driver.reset_errors();
}

#[test]
fn an_id_beyond_the_vocabulary_harms_nobody() {
    let _gpu = soft_gpu();
    let engine = engine("deepseek_v3", &device(Precision::F32), true);
    let mut good = engine.generate(Request { max_tokens: Some(3), ..Request::new(vec![1, 2]) }).unwrap();
    assert!(matches!(good.step(), Some(Ok(Step::Token(_)))));
    assert!(engine.generate(Request::new(vec![1, 1 << 20])).is_err());
    assert!(matches!(good.step(), Some(Ok(Step::Token(_)))));
}
