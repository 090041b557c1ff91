//! Engines over a fixture whose steps can be watched, held up and spoilt, and what a job's reader hears.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::ModelConfig;
use comm::{Communicator, Solo, Threads};
use engine::{
    Engine, EngineError, EngineOptions, FinishReason, GenerationStats, Job, Rank, Request, Sampled,
    SamplingParams, Service, ServiceOptions, Step, TokenEvent, TokenEvents,
};
use kernels::{Device, Tensor};
use models::{Batch, KvCache, KvLayout, Model, ModelError, ModelOptions, ModelSummary, Mtp, StepContext};
use testkit::Fixture;

/// A step that computes one of these tokens fails, panics, or gives NaN for it. Others never sample them.
pub(crate) const FAILS: u32 = 250;
pub(crate) const PANICS: u32 = 251;
pub(crate) const GIVES_NAN: u32 = 252;
const SPOILT: [u32; 3] = [FAILS, PANICS, GIVES_NAN];

/// How long anything here may take on a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a test sees of a model's steps.
#[derive(Default)]
pub(crate) struct Watch {
    /// Held by a test, it holds up the next step.
    pub(crate) gate: Mutex<()>,
    /// Tokens of every forward.
    pub(crate) forwards: Mutex<Vec<usize>>,
    pub(crate) begun: AtomicUsize,
}

impl Watch {
    /// Whether a step has begun that the test holds up.
    pub(crate) fn is_inside_a_step(&self) -> bool {
        self.begun.load(Ordering::SeqCst) > self.forwards().len()
    }

    pub(crate) fn forwards(&self) -> Vec<usize> {
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Watched {
    model: Box<dyn Model>,
    /// Whether [`SPOILT`] tokens do what they are for.
    is_spoilt: bool,
    watch: Arc<Watch>,
}

impl Model for Watched {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn kv_layout(&self) -> &KvLayout {
        self.model.kv_layout()
    }

    fn forward(&self, ctx: &mut StepContext<'_>, batch: &Batch, kv: &mut KvCache) -> models::Result<Tensor> {
        self.watch.begun.fetch_add(1, Ordering::SeqCst);
        let tokens = batch.token_ids.to_vec_u32().unwrap();
        let gate = self.watch.gate.lock().unwrap_or_else(PoisonError::into_inner);
        // Within the gate: whoever holds it sees a step that has begun and is not here as one that it holds up.
        self.watch.forwards.lock().unwrap_or_else(PoisonError::into_inner).push(tokens.len());
        drop(gate);
        if !self.is_spoilt {
            return self.model.forward(ctx, batch, kv);
        }
        assert!(!tokens.contains(&PANICS), "a planted panic");
        let hidden = self.model.forward(ctx, batch, kv)?;
        if tokens.contains(&FAILS) {
            return Err(ModelError::Step {
                arg: "test",
                expected: "no fault".into(),
                found: "a planted one".into(),
            });
        }
        let width = hidden.dim(1);
        let mut values = hidden.to_vec_f32();
        for (token, row) in tokens.iter().zip(values.chunks_exact_mut(width)) {
            if *token == GIVES_NAN {
                row.fill(f32::NAN);
            }
        }
        Ok(Tensor::from_f32(&Device::Cpu, hidden.shape(), &values)?)
    }

    fn final_normed(&self, hidden: &Tensor) -> models::Result<Tensor> {
        self.model.final_normed(hidden)
    }

    fn logits(&self, hidden: &Tensor) -> models::Result<Tensor> {
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

/// Contexts of 96 tokens in blocks of 4, so that every request crosses blocks.
pub(crate) fn options() -> EngineOptions {
    EngineOptions {
        context_len: Some(96),
        block_size: 4,
        prefill_chunk: 64,
        max_sequences: 64,
        poison_cache: true,
        ..Default::default()
    }
}

pub(crate) fn watched(fixture: &str, options: &EngineOptions) -> (Arc<Engine>, Arc<Watch>) {
    watched_in(fixture, ModelOptions::default(), options)
}

/// As [`watched`], of a model in other forms.
pub(crate) fn watched_in(
    fixture: &str,
    forms: ModelOptions,
    options: &EngineOptions,
) -> (Arc<Engine>, Arc<Watch>) {
    watched_model(fixture, forms, options, true)
}

/// As [`watched`], of a model that nothing spoils: a guess may be any token, those that nothing samples included.
pub(crate) fn unspoilt(fixture: &str, options: &EngineOptions) -> (Arc<Engine>, Arc<Watch>) {
    watched_model(fixture, ModelOptions::default(), options, false)
}

fn watched_model(
    fixture: &str,
    forms: ModelOptions,
    options: &EngineOptions,
    is_spoilt: bool,
) -> (Arc<Engine>, Arc<Watch>) {
    let checkpoint = Fixture::open(fixture).checkpoint();
    let model = models::load_with(&checkpoint, &Device::Cpu, Arc::new(Solo), forms, &mut |_| {});
    let watch = Arc::new(Watch::default());
    let model = Box::new(Watched { model: model.unwrap(), is_spoilt, watch: Arc::clone(&watch) });
    (Engine::new(vec![Rank::solo(model, Device::Cpu)], options).unwrap(), watch)
}

pub(crate) fn engine(fixture: &str, options: &EngineOptions) -> Arc<Engine> {
    watched(fixture, options).0
}

/// An engine of several ranks, of which the last can be watched.
pub(crate) fn ranks(fixture: &str, size: usize) -> (Arc<Engine>, Arc<Watch>) {
    ranks_with(fixture, size, &options())
}

pub(crate) fn ranks_with(fixture: &str, size: usize, options: &EngineOptions) -> (Arc<Engine>, Arc<Watch>) {
    let checkpoint = Fixture::open(fixture).checkpoint();
    let watch = Arc::new(Watch::default());
    let rank = |threads: Threads| {
        let comm: Arc<dyn Communicator> = Arc::new(threads);
        let model = models::load(&checkpoint, &Device::Cpu, Arc::clone(&comm), &mut |_| {}).unwrap();
        let is_last = comm.rank() + 1 == size;
        let watched =
            || Box::new(Watched { model, is_spoilt: true, watch: Arc::clone(&watch) }) as Box<dyn Model>;
        let model = if is_last {
            watched()
        } else {
            models::load(&checkpoint, &Device::Cpu, Arc::clone(&comm), &mut |_| {}).unwrap()
        };
        Rank { model, device: Device::Cpu, comm }
    };
    let ranks = Threads::group(size, PATIENCE).into_iter().map(rank).collect();
    (Engine::new(ranks, options).unwrap(), watch)
}

pub(crate) fn service_options() -> ServiceOptions {
    ServiceOptions { max_num_seqs: 64, max_num_batched_tokens: 64, ..Default::default() }
}

pub(crate) fn service(engine: &Arc<Engine>) -> Service {
    Service::start(Arc::clone(engine), &service_options()).unwrap()
}

/// A prompt of `len` tokens that begins like all others of the same `kind`.
pub(crate) fn prompt(kind: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 37 + 11 + kind * 101) % 240).collect()
}

pub(crate) fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let logit_bias = SPOILT.map(|token| (token, f32::NEG_INFINITY)).to_vec();
    let sampling = SamplingParams { logit_bias, ..SamplingParams::greedy() };
    Request { sampling, max_tokens: Some(max_tokens), ..Request::new(prompt) }
}

pub(crate) fn seeded(request: Request, seed: u64) -> Request {
    let sampling = SamplingParams { temperature: 1.0, seed: Some(seed), ..request.sampling };
    Request { sampling, ..request }
}

/// All that a job's reader heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) cached_tokens: Option<usize>,
    /// By continuation.
    pub(crate) sampled: Vec<Vec<Sampled>>,
    pub(crate) finishes: Vec<Option<(FinishReason, GenerationStats)>>,
    pub(crate) embedding: Option<Vec<f32>>,
    pub(crate) failed: Option<(String, bool)>,
}

impl Heard {
    /// Reads to the end and checks the order.
    pub(crate) fn all(events: &mut TokenEvents) -> Self {
        let mut heard = Self::default();
        while let Some(event) = events.blocking_recv() {
            heard.note(event);
        }
        assert!(events.blocking_recv().is_none(), "nothing follows the end");
        heard
    }

    pub(crate) fn note(&mut self, event: TokenEvent) {
        assert!(self.failed.is_none() && self.embedding.is_none(), "after the end: {event:?}");
        let is_first = self.cached_tokens.is_none();
        match event {
            TokenEvent::Started { cached_tokens, .. } => {
                assert!(is_first, "started twice");
                self.cached_tokens = Some(cached_tokens);
            }
            TokenEvent::Token { index, sampled } => {
                assert!(!is_first, "a token before the start");
                self.make_room(index);
                assert!(self.finishes[index].is_none(), "a token after the end");
                self.sampled[index].push(sampled);
            }
            TokenEvent::Finish { index, reason, stats } => {
                self.make_room(index);
                let before = self.finishes[index].replace((reason, stats));
                assert!(before.is_none(), "finished twice");
            }
            TokenEvent::Embedding(embedding) => self.embedding = Some(embedding),
            TokenEvent::Failed { error, is_request } => self.failed = Some((error, is_request)),
        }
    }

    fn make_room(&mut self, index: usize) {
        let count = self.sampled.len().max(index + 1);
        self.sampled.resize_with(count, Vec::new);
        self.finishes.resize(count, None);
    }

    pub(crate) fn tokens(&self, index: usize) -> Vec<u32> {
        self.sampled.get(index).into_iter().flatten().map(|sampled| sampled.token).collect()
    }
}

/// Submits all at once, then reads one after the other.
pub(crate) fn run(service: &Service, jobs: Vec<Job>) -> Vec<Heard> {
    let mut events: Vec<_> = jobs.into_iter().map(|job| service.submit(job).unwrap()).collect();
    events.iter_mut().map(Heard::all).collect()
}

/// As [`run`], while the gate holds up the first step: however slow this thread is, all are there for the second.
pub(crate) fn run_together(service: &Service, watch: &Watch, jobs: Vec<Job>) -> Vec<Heard> {
    let gate = watch.gate.lock().unwrap();
    let mut events: Vec<_> = jobs.into_iter().map(|job| service.submit(job).unwrap()).collect();
    drop(gate);
    events.iter_mut().map(Heard::all).collect()
}

/// What a request gives when nothing else runs.
pub(crate) fn alone(engine: &Arc<Engine>, request: Request) -> Vec<Sampled> {
    let sampled = |step: Result<Step, EngineError>| match step.unwrap() {
        Step::Token(sampled) => Some(sampled),
        _ => None,
    };
    engine.generate(request).unwrap().filter_map(sampled).collect()
}

/// Waits until `done`, which is to come soon.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Nothing runs and no block is held.
pub(crate) fn assert_clean(service: &Service) {
    eventually("an idle service", || service.is_idle());
    let allocator = service.engine().allocator();
    eventually("free blocks", || allocator.num_free_blocks() == allocator.num_blocks());
    allocator.check_integrity().unwrap();
}
