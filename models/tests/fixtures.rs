//! Every fixture against its golden outputs: logits at all positions, hidden states, routing.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use kernels::ops::Routing;
use kernels::{Device, Tensor};
use models::{Model, Probe, StepContext};
use support::{Pool, Sequence, load, prompt_logits, tolerance};
use testkit::{Fixture, assert_close};

#[test]
fn logits_at_every_position() {
    for fixture in Fixture::all() {
        let (model, golden) = (load(&fixture), fixture.golden());
        let vocab = model.config().common().vocab_size;
        let lengths = golden.prompt_lengths();
        assert!(lengths.starts_with(&[1, 7, 33]), "{}", fixture.name());
        for n in lengths {
            let what = format!("{} p{n}", fixture.name());
            let logits = prompt_logits(&*model, &golden.u32s(&format!("p{n}.ids")));
            let expected = golden.f32s(&format!("p{n}.logits"));
            println!("{what}: {:.1e}", assert_close(&what, &logits, &expected, vocab, tolerance(n)));
        }
    }
}

#[test]
fn prefill_in_chunks_over_scattered_blocks() {
    for fixture in Fixture::all() {
        let (model, golden) = (load(&fixture), fixture.golden());
        let vocab = model.config().common().vocab_size;
        for n in golden.prompt_lengths().into_iter().filter(|&n| n > 1) {
            let tokens = golden.u32s(&format!("p{n}.ids"));
            let expected = golden.f32s(&format!("p{n}.logits"));
            for block_size in [1, 4, 16] {
                for chunk in [1, 7, 64, n] {
                    let mut pool = Pool::for_tokens(&*model, n, block_size);
                    let logits = pool.prefill(&*model, &mut Sequence::new(&tokens), chunk);
                    let what =
                        format!("{} p{n} in chunks of {chunk}, blocks of {block_size}", fixture.name());
                    assert_close(&what, &logits, &expected, vocab, tolerance(n));
                }
            }
        }
    }
}

/// Everything that a probe hears.
#[derive(Default)]
struct Recorder {
    hidden: BTreeMap<String, Vec<f32>>,
    routers: BTreeMap<usize, Router>,
    selections: BTreeMap<usize, Vec<u32>>,
}

struct Router {
    logits: Vec<f32>,
    experts: Vec<u32>,
    weights: Vec<f32>,
    top_k: usize,
}

impl Probe for Recorder {
    fn hidden(&mut self, name: &str, hidden: &Tensor) {
        assert!(self.hidden.insert(name.to_owned(), hidden.to_vec_f32()).is_none(), "{name} twice");
    }

    fn router(&mut self, layer: usize, logits: &Tensor, routing: &Routing) {
        let router = Router {
            logits: logits.to_vec_f32(),
            experts: routing.experts.to_vec_u32().unwrap(),
            weights: routing.weights.to_vec_f32(),
            top_k: routing.experts.dim(1),
        };
        assert!(self.routers.insert(layer, router).is_none(), "layer {layer} twice");
    }

    fn selection(&mut self, layer: usize, _: &Tensor, selected: Option<&Tensor>) {
        let lists = selected.expect("a prompt of more tokens than are selected").to_vec_u32().unwrap();
        assert!(self.selections.insert(layer, lists).is_none(), "layer {layer} twice");
    }
}

impl Router {
    /// Experts in ascending order with their weights, as the fixtures store them.
    fn ascending(&self) -> (Vec<u32>, Vec<f32>) {
        let (mut experts, mut weights) = (Vec::new(), Vec::new());
        for (ids, values) in self.experts.chunks(self.top_k).zip(self.weights.chunks(self.top_k)) {
            let mut pairs: Vec<(u32, f32)> = ids.iter().copied().zip(values.iter().copied()).collect();
            pairs.sort_by_key(|pair| pair.0);
            experts.extend(pairs.iter().map(|pair| pair.0));
            weights.extend(pairs.iter().map(|pair| pair.1));
        }
        (experts, weights)
    }
}

/// Runs `p33` with a recorder listening.
fn record_p33(model: &dyn Model, tokens: &[u32]) -> Recorder {
    let mut recorder = Recorder::default();
    let mut ctx = StepContext::with_probe(&Device::Cpu, &mut recorder);
    Pool::for_tokens(model, tokens.len(), 4).step(
        model,
        &mut ctx,
        &mut [(&mut Sequence::new(tokens), tokens.len())],
    );
    recorder
}

#[test]
fn hidden_states_of_every_layer() {
    for fixture in Fixture::all() {
        let (model, golden) = (load(&fixture), fixture.golden());
        let recorder = record_p33(&*model, &golden.u32s("p33.ids"));
        let keys = golden.keys("p33.hidden.");
        let heard: Vec<String> = recorder.hidden.keys().map(|name| format!("p33.hidden.{name}")).collect();
        assert_eq!(heard, keys, "{}", fixture.name());
        for (name, hidden) in &recorder.hidden {
            let key = format!("p33.hidden.{name}");
            let what = format!("{} {key}", fixture.name());
            let width = model.config().common().hidden_size;
            assert_close(&what, hidden, &golden.f32s(&key), width, tolerance(33));
        }
    }
}

#[test]
fn routing_of_every_moe_layer() {
    let mut layers = 0;
    for fixture in Fixture::all() {
        let (model, golden) = (load(&fixture), fixture.golden());
        let recorder = record_p33(&*model, &golden.u32s("p33.ids"));
        let recorded = golden.keys("p33.router.").len() / 3;
        assert_eq!(recorder.routers.len(), recorded, "{}: routed layers", fixture.name());
        for (layer, router) in &recorder.routers {
            let key = |part: &str| format!("p33.router.layer{layer}.{part}");
            let what = |part: &str| format!("{} {}", fixture.name(), key(part));
            let experts = golden.shape(&key("logits"))[1];
            assert_close(&what("logits"), &router.logits, &golden.f32s(&key("logits")), experts, 1e-4);
            let (indices, weights) = router.ascending();
            assert_eq!(indices, golden.u32s(&key("indices")), "{}", what("indices"));
            assert_close(&what("weights"), &weights, &golden.f32s(&key("weights")), router.top_k, 1e-4);
        }
        layers += recorder.routers.len();
    }
    assert!(layers >= 15, "only {layers} routed layers in all fixtures");
}

#[test]
fn masks_of_every_indexer() {
    let layers =
        [("deepseek_v32", 3), ("deepseek_v4", 2), ("deepseek_v4_smallhca", 2), ("deepseek_v4_quant", 1)];
    for (name, layers) in layers {
        let fixture = Fixture::open(name);
        let (model, golden) = (load(&fixture), fixture.golden());
        let recorder = record_p33(&*model, &golden.u32s("p33.ids"));
        assert_eq!(recorder.selections.len(), layers, "{name}");
        for (layer, lists) in recorder.selections {
            let key = format!("p33.indexer.layer{layer}.mask");
            // Of V4 a key is a compressed entry.
            let keys = golden.shape(&key)[1] as u32;
            assert!(lists.iter().all(|&entry| entry < keys || entry == u32::MAX), "{name} {key}");
            let lists = lists.chunks(lists.len() / 33);
            let mask: Vec<u8> =
                lists.flat_map(|list| (0..keys).map(|entry| u8::from(list.contains(&entry)))).collect();
            assert_eq!(mask, golden.u8s(&key), "{name} {key}");
        }
    }
}
