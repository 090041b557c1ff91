//! Embeddings: the mean of a prompt's last hidden states, however the prompt is computed.

use std::sync::Arc;

use engine::{Engine, EngineOptions, Job, LogitRows, Service, ServiceOptions};
use kernels::Tensor;
use models::{Probe, StepContext};

use crate::support::{
    Heard, alone, assert_clean, engine, options, prompt, request, service, service_options, watched,
};

/// The last hidden states of all tokens, row after row.
#[derive(Default)]
struct Hidden {
    width: usize,
    values: Vec<f32>,
}

impl Probe for Hidden {
    fn hidden(&mut self, name: &str, hidden: &Tensor) {
        if name == "final_norm" {
            self.width = hidden.dim(1);
            self.values.extend(hidden.to_vec_f32());
        }
    }
}

fn expected(engine: &Engine, prompt: &[u32]) -> Vec<f32> {
    let mut hidden = Hidden::default();
    let mut ctx = StepContext::with_probe(engine.device(), &mut hidden);
    engine.extend(&mut ctx, &mut engine.sequence(), prompt, LogitRows::None).unwrap();
    let column =
        |i: usize| hidden.values.iter().skip(i).step_by(hidden.width).sum::<f32>() / prompt.len() as f32;
    let mean: Vec<f32> = (0..hidden.width).map(column).collect();
    let norm = mean.iter().map(|v| v * v).sum::<f32>().sqrt();
    mean.iter().map(|v| v / norm).collect()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "{what}: {worst}");
}

#[test]
fn an_embedding_is_the_normed_mean_whatever_the_chunks() {
    let engine = engine("deepseek_v2_lite", &options());
    let prompts: Vec<_> = [1, 3, 30, 95].map(|len| prompt(0, len)).into();
    let mut first: Option<Vec<Vec<f32>>> = None;
    for tokens in [64, 5] {
        let options = ServiceOptions { max_num_batched_tokens: tokens, max_num_seqs: 5, ..service_options() };
        let service = Service::start(Arc::clone(&engine), &options).unwrap();
        let decoding = request(prompt(1, 20), 40);
        let mut beside = service.submit(Job::new(decoding.clone())).unwrap();
        let mut events: Vec<_> =
            prompts.iter().map(|prompt| service.embed(prompt.clone(), 0, 0).unwrap()).collect();
        let found: Vec<_> = events.iter_mut().map(|e| Heard::all(e).embedding.unwrap()).collect();
        for (found, prompt) in found.iter().zip(&prompts) {
            assert_close(found, &expected(&engine, prompt), &format!("{} tokens", prompt.len()));
        }
        assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "the same bits in chunks");
        assert_eq!(Heard::all(&mut beside).sampled[0], alone(&engine, decoding));
        assert_clean(&service);
    }
}

#[test]
fn a_known_prefix_is_embedded_whole() {
    let engine = engine("deepseek_v2_lite", &options());
    let service = service(&engine);
    Heard::all(&mut service.submit(Job::new(request(prompt(0, 40), 3))).unwrap());
    let heard = Heard::all(&mut service.embed(prompt(0, 48), 0, 0).unwrap());
    assert_eq!(heard.cached_tokens, Some(0));
    assert_close(&heard.embedding.unwrap(), &expected(&engine, &prompt(0, 48)), "cached by another");
}

#[test]
fn an_embedding_that_lost_its_blocks_begins_again() {
    let reference = engine("deepseek_v2_lite", &options());
    let (engine, watch) = watched("deepseek_v2_lite", &EngineOptions { max_sequences: 1, ..options() });
    let options = ServiceOptions { max_num_batched_tokens: 5, max_num_seqs: 5, ..service_options() };
    let service = Service::start(engine, &options).unwrap();
    // Four older ones leave it one token of each step and, as they grow, take its blocks.
    let requests: Vec<_> = (1..5).map(|kind| request(prompt(kind, 8), 24)).collect();
    let gate = watch.gate.lock().unwrap();
    let mut beside: Vec<_> =
        requests.iter().map(|request| service.submit(Job::new(request.clone())).unwrap()).collect();
    let mut events = service.embed(prompt(0, 16), 0, 0).unwrap();
    drop(gate);
    let found = Heard::all(&mut events).embedding.unwrap();
    assert_close(&found, &expected(&reference, &prompt(0, 16)), "preempted");
    assert!(service.metrics().num_preemptions > 0);
    for (events, request) in beside.iter_mut().zip(requests) {
        assert_eq!(Heard::all(events).sampled[0], alone(&reference, request));
    }
    assert_clean(&service);
}

#[test]
fn an_embedding_of_one_token_is_its_state() {
    let service = service(&engine("llama3_distill", &options()));
    let found = Heard::all(&mut service.embed(vec![7], 0, 0).unwrap());
    assert_eq!(found.cached_tokens, Some(0));
    let length: f32 = found.embedding.unwrap().iter().map(|v| v * v).sum();
    assert!((length - 1.0).abs() < 1e-5);
}
