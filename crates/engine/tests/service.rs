//! A service over the smallest fixture: what it answers is what single generations answer.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use engine::{
    Engine, EngineOptions, Job, Rank, Request, SamplingParams, Service, ServiceOptions, Step, TokenEvent,
};
use kernels::Device;
use testkit::Fixture;

fn engine() -> Arc<Engine> {
    let fixture = Fixture::open("deepseek_v2_lite");
    let model = models::load(&fixture.checkpoint(), &Device::Cpu, Arc::new(comm::Solo), &mut |_| {}).unwrap();
    let options =
        EngineOptions { context_len: Some(96), max_sequences: 4, poison_cache: true, ..Default::default() };
    Engine::new(vec![Rank::solo(model, Device::Cpu)], &options).unwrap()
}

fn request(len: u32) -> Request {
    let prompt = (0..len).map(|i| (i * 37 + 11) % 256).collect();
    Request { sampling: SamplingParams::greedy(), max_tokens: Some(12), ..Request::new(prompt) }
}

#[test]
fn a_service_gives_the_tokens_of_a_generation() {
    let engine = engine();
    let service = Service::start(Arc::clone(&engine), &ServiceOptions::default()).unwrap();
    let mut events = service.submit(Job::new(request(20))).unwrap();
    let mut tokens = Vec::new();
    while let Some(event) = events.blocking_recv() {
        if let TokenEvent::Token { sampled, .. } = event {
            tokens.push(sampled.token);
        }
    }
    let alone = engine.generate(request(20)).unwrap().filter_map(|step| match step.unwrap() {
        Step::Token(sampled) => Some(sampled.token),
        _ => None,
    });
    assert_eq!(tokens, alone.collect::<Vec<_>>());
    assert!(service.health().alive);
}
