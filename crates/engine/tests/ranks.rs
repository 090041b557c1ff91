//! An engine over several ranks: the tokens of one rank, and an end with a reason wherever a rank fails.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use checkpoint::ModelConfig;
use comm::{Communicator, Threads};
use engine::{Engine, EngineError, EngineOptions, LogitRows, Rank, Request, SamplingParams, Sequence, Step};
use kernels::{Device, Tensor};
use models::{Batch, KvCache, KvLayout, Model, ModelError, ModelSummary, Mtp, StepContext};
use testkit::Fixture;

/// Far more than a rank computes between two collectives, also on a machine that is busy with something else.
const DEADLINE: Duration = Duration::from_secs(60);
/// What a failure may take: less than the deadline, because nobody waits for it, and less than a sleeping rank's nap.
const PATIENCE: Duration = Duration::from_secs(20);
const NAP: Duration = Duration::from_secs(40);

/// What goes wrong, and in which call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    ForwardFails,
    ForwardPanics,
    ForwardSleeps,
    LogitsFail,
}

/// A model that works until its second step.
struct Faulty {
    model: Box<dyn Model>,
    fault: Fault,
    forwards: AtomicUsize,
}

fn broken() -> ModelError {
    ModelError::Step { arg: "test", expected: "no fault".into(), found: "a planted one".into() }
}

impl Model for Faulty {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn kv_layout(&self) -> &KvLayout {
        self.model.kv_layout()
    }

    fn forward(&self, ctx: &mut StepContext<'_>, batch: &Batch, kv: &mut KvCache) -> models::Result<Tensor> {
        if self.forwards.fetch_add(1, Ordering::Relaxed) == 1 {
            match self.fault {
                Fault::ForwardFails => return Err(broken()),
                Fault::ForwardPanics => panic!("a planted panic"),
                Fault::ForwardSleeps => std::thread::sleep(NAP),
                Fault::None | Fault::LogitsFail => {}
            }
        }
        self.model.forward(ctx, batch, kv)
    }

    fn final_normed(&self, hidden: &Tensor) -> models::Result<Tensor> {
        self.model.final_normed(hidden)
    }

    fn logits(&self, hidden: &Tensor) -> models::Result<Tensor> {
        if self.fault == Fault::LogitsFail && self.forwards.load(Ordering::Relaxed) == 2 {
            return Err(broken());
        }
        self.model.logits(hidden)
    }

    fn mtp(&self) -> Option<&Mtp> {
        self.model.mtp()
    }

    fn weight_bytes(&self) -> usize {
        self.model.weight_bytes()
    }

    fn unknown_tensors(&self) -> &[String] {
        self.model.unknown_tensors()
    }

    fn summary(&self) -> &ModelSummary {
        self.model.summary()
    }
}

/// The ranks of a fixture, of which one has a fault.
fn ranks(fixture: &str, size: usize, deadline: Duration, (faulty, fault): (usize, Fault)) -> Vec<Rank> {
    let checkpoint = Fixture::open(fixture).checkpoint();
    let rank = |threads: Threads| {
        let comm: Arc<dyn Communicator> = Arc::new(threads);
        let model = models::load(&checkpoint, &Device::Cpu, Arc::clone(&comm), &mut |_| {}).unwrap();
        let fault = if comm.rank() == faulty { fault } else { Fault::None };
        let model = Box::new(Faulty { model, fault, forwards: AtomicUsize::new(0) });
        Rank { model, device: Device::Cpu, comm }
    };
    Threads::group(size, deadline).into_iter().map(rank).collect()
}

fn options(rank_deadline: Duration) -> EngineOptions {
    EngineOptions {
        context_len: Some(96),
        prefill_chunk: 16,
        max_sequences: 3,
        poison_cache: true,
        rank_deadline,
        ..Default::default()
    }
}

fn engine(fixture: &str, size: usize) -> Arc<Engine> {
    Engine::new(ranks(fixture, size, DEADLINE, (0, Fault::None)), &options(DEADLINE)).unwrap()
}

fn request(len: u32, seed: u64) -> Request {
    let prompt = (0..len).map(|i| (i * 37 + 11) % 256).collect();
    let sampling = SamplingParams { seed: Some(seed), ..Default::default() };
    Request { sampling, max_tokens: Some(12), ..Request::new(prompt) }
}

fn tokens(engine: &Arc<Engine>, request: Request) -> Vec<u32> {
    let token = |step: Result<Step, EngineError>| match step.unwrap() {
        Step::Token(sampled) => Some(sampled.token),
        _ => None,
    };
    engine.generate(request).unwrap().filter_map(token).collect()
}

#[test]
fn ranks_give_the_tokens_of_one() {
    for fixture in ["deepseek_v2_lite", "llama3_distill"] {
        let alone = tokens(&engine(fixture, 1), request(40, 7));
        assert_eq!(alone.len(), 12);
        for size in [2, 3, 4] {
            let engine = engine(fixture, size);
            assert_eq!(engine.num_ranks(), size);
            assert_eq!(tokens(&engine, request(40, 7)), alone, "{fixture} on {size} ranks");
            assert_eq!(tokens(&engine, request(40, 7)), alone, "again, over a used cache");
            engine.allocator().check_integrity().unwrap();
        }
    }
}

#[test]
fn threads_share_an_engine_of_several_ranks() {
    let engine = engine("deepseek_v2_lite", 2);
    let expected: Vec<_> = (0..3).map(|seed| tokens(&engine, request(12, seed))).collect();
    let threads: Vec<_> = (0..3)
        .map(|seed| {
            let engine = Arc::clone(&engine);
            std::thread::spawn(move || tokens(&engine, request(12, seed)))
        })
        .collect();
    let found: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_job_runs_on_every_rank() {
    let engine = engine("deepseek_v2_lite", 3);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let own = engine.on_ranks(move |rank| {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        sink.lock().unwrap().push((name.clone(), rank.kv.num_blocks()));
        Ok(name)
    });
    let mut seen = Arc::into_inner(seen).unwrap().into_inner().unwrap();
    seen.sort();
    let blocks = engine.allocator().num_blocks();
    assert_eq!(seen.len(), 3);
    assert!(seen.contains(&(own.unwrap(), blocks)), "rank 0 works on the caller's thread");
    assert!(seen.contains(&("rank 1".to_owned(), blocks)) && seen.contains(&("rank 2".to_owned(), blocks)));
}

/// The first step works, the second one fails; every later call says the same.
fn check_failure(size: usize, faulty: usize, fault: Fault, deadline: Duration, reason: &str) {
    let what = format!("{fault:?} on rank {faulty} of {size}");
    let ranks = ranks("deepseek_v2_lite", size, deadline, (faulty, fault));
    let engine = Engine::new(ranks, &options(deadline)).unwrap();
    let mut other = engine.generate(request(8, 1)).unwrap();
    other.step().unwrap().unwrap();
    let started = Instant::now();
    let mut failing = engine.generate(request(8, 2)).unwrap();
    let error = failing.step().unwrap().unwrap_err();
    let EngineError::Rank { rank, reason: found } = &error else { panic!("{what}: {error}") };
    assert_eq!(*rank, faulty, "{what}: {error}");
    assert!(found.contains(reason), "{what}: {error}");
    assert!(failing.step().is_none());
    let again = other.step().unwrap().unwrap_err();
    assert_eq!(again.to_string(), error.to_string(), "{what}");
    let again = engine.on_ranks(|_| Ok(())).unwrap_err();
    assert_eq!(again.to_string(), error.to_string(), "{what}: not even what needs no collective");
    drop((failing, other));
    assert_eq!(engine.allocator().num_free_blocks(), engine.allocator().num_blocks(), "{what}");
    drop(engine);
    assert!(started.elapsed() < PATIENCE, "{what} took {:?}", started.elapsed());
}

#[test]
fn a_rank_that_fails_ends_the_step_on_all() {
    for (size, faulty) in [(2, 0), (2, 1), (3, 2)] {
        check_failure(size, faulty, Fault::ForwardFails, DEADLINE, "test has a planted one");
        check_failure(size, faulty, Fault::LogitsFail, DEADLINE, "test has a planted one");
    }
}

#[test]
fn a_rank_that_panics_ends_the_step_on_all() {
    for (size, faulty) in [(2, 0), (3, 1)] {
        check_failure(size, faulty, Fault::ForwardPanics, DEADLINE, "panicked: a planted panic");
    }
}

/// A rank that hangs is not waited for beyond the deadline, neither by the others nor when the engine ends.
#[test]
fn a_rank_that_hangs_is_late() {
    let deadline = Duration::from_secs(3);
    check_failure(3, 2, Fault::ForwardSleeps, deadline, "ranks [2] did not arrive within 3s");
}

#[test]
fn one_rank_alone_survives_a_failed_step() {
    let ranks = ranks("deepseek_v2_lite", 1, DEADLINE, (0, Fault::ForwardFails));
    let engine = Engine::new(ranks, &options(DEADLINE)).unwrap();
    let mut ctx = StepContext::new(engine.device());
    let (mut sequence, mut undisturbed) = (engine.sequence(), engine.sequence());
    let mut extend = |sequence: &mut Sequence, tokens: &[u32]| {
        let step = engine.extend(&mut ctx, sequence, tokens, LogitRows::Last)?;
        Ok::<_, EngineError>(step.logits.unwrap().to_vec_f32())
    };
    extend(&mut sequence, &[5; 20]).unwrap();
    assert!(matches!(extend(&mut sequence, &[9; 20]), Err(EngineError::Model(_))));
    assert_eq!(sequence.len(), 20, "a failed step leaves the sequence as it was");
    extend(&mut undisturbed, &[5; 20]).unwrap();
    assert_eq!(extend(&mut sequence, &[7; 3]).unwrap(), extend(&mut undisturbed, &[7; 3]).unwrap());
}

#[test]
fn a_bad_id_costs_its_own_step_only() {
    let engine = engine("deepseek_v2_lite", 2);
    let mut ctx = StepContext::new(engine.device());
    let mut sequence = engine.sequence();
    let bad = engine.extend(&mut ctx, &mut sequence, &[1, 256], LogitRows::Last);
    assert!(matches!(bad, Err(EngineError::Request { field: "tokens", .. })));
    assert!(sequence.is_empty());
    let good = engine.extend(&mut ctx, &mut sequence, &[1, 255], LogitRows::All).unwrap();
    assert_eq!(good.logits.unwrap().shape(), [2, 256]);
    let quiet = engine.extend(&mut ctx, &mut sequence, &[3], LogitRows::None).unwrap();
    assert!(quiet.logits.is_none());
}

#[test]
fn ranks_must_be_one_group_in_order() {
    let error = |edit: fn(&mut Vec<Rank>)| {
        let mut ranks = ranks("deepseek_v2_lite", 2, DEADLINE, (0, Fault::None));
        edit(&mut ranks);
        Engine::new(ranks, &options(DEADLINE)).unwrap_err().to_string()
    };
    assert!(error(|ranks| ranks.reverse()).contains("ranks is rank 1 of 2, expected rank 0 of 2"));
    assert!(error(|ranks| ranks.truncate(1)).contains("rank 0 of 2, expected rank 0 of 1"));
    assert!(error(Vec::clear).contains("at least 1"));
}
