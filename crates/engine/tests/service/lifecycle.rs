//! Taking, refusing, draining, ending, and what is counted meanwhile.

use std::sync::Arc;
use std::time::Duration;

use engine::{
    EngineError, EngineOptions, FinishReason, Job, Request, Service, ServiceOptions, SubmitError, TokenEvent,
};

use crate::support::{
    Heard, alone, assert_clean, engine, eventually, options, prompt, request, run, service, service_options,
    watched,
};

#[test]
fn a_full_queue_refuses_and_a_draining_service_finishes() {
    let (engine, watch) = watched("deepseek_v2_lite", &options());
    let options = ServiceOptions { max_waiting: 2, ..service_options() };
    let service = Service::start(Arc::clone(&engine), &options).unwrap();
    let gate = watch.gate.lock().unwrap();
    let submit = |kind| service.submit(Job::new(request(prompt(kind, 20), 6)));
    let first = submit(0).unwrap();
    eventually("a step", || service.health().running == 1);
    let (second, third) = (submit(1).unwrap(), submit(2).unwrap());
    let refused = submit(3).unwrap_err();
    assert!(matches!(refused, SubmitError::QueueFull { waiting: 2, max_waiting: 2 }), "{refused}");
    let embed = service.embed(prompt(0, 3), 0, 0);
    assert!(matches!(embed, Err(SubmitError::QueueFull { .. })));
    eventually("a heartbeat that stands still", || {
        service.health().since_last_step > Duration::from_millis(30)
    });
    service.drain();
    assert!(matches!(submit(4), Err(SubmitError::Draining)));
    let health = service.health();
    assert_eq!((health.alive, health.draining, health.running, health.waiting), (true, true, 1, 2));
    assert!(!service.is_idle());
    drop(gate);
    for (kind, mut events) in [first, second, third].into_iter().enumerate() {
        let heard = Heard::all(&mut events);
        assert_eq!(heard.sampled[0], alone(&engine, request(prompt(kind as u32, 20), 6)));
    }
    assert_clean(&service);
    eventually("rest", || service.health().since_last_step == Duration::ZERO);
}

#[test]
fn cancelling_all_ends_each_with_its_reason() {
    let (engine, watch) = watched("deepseek_v2_lite", &options());
    let service = service(&engine);
    let gate = watch.gate.lock().unwrap();
    let mut pair = service.submit(Job { n: 2, ..Job::new(request(prompt(0, 20), 50)) }).unwrap();
    let mut embedding = service.embed(prompt(1, 90), 0, 0).unwrap();
    let mut waiting = service.submit(Job::new(request(prompt(2, 20), 50))).unwrap();
    service.cancel_all();
    drop(gate);
    let heard = Heard::all(&mut pair);
    let reasons: Vec<_> = heard.finishes.iter().map(|finish| finish.unwrap().0).collect();
    assert_eq!(reasons, [FinishReason::Cancelled; 2]);
    assert_eq!(Heard::all(&mut waiting).finishes[0].unwrap().0, FinishReason::Cancelled);
    assert_eq!(Heard::all(&mut embedding).failed, Some(("cancelled".into(), true)));
    assert_clean(&service);
    let again = request(prompt(0, 20), 5);
    let heard = run(&service, vec![Job::new(again.clone())]).remove(0);
    assert_eq!(heard.sampled[0], alone(&engine, again), "it takes new ones");
}

#[test]
fn the_last_handle_ends_the_thread_and_what_runs() {
    // The job has thousands of steps, and events for all of them fit: it neither ends nor stalls by itself while the
    // last handle goes.
    let (engine, watch) = watched(
        "deepseek_v2_lite",
        &EngineOptions { context_len: Some(4096), max_sequences: 1, ..options() },
    );
    let options = ServiceOptions { event_capacity: 8192, ..service_options() };
    let service = Service::start(Arc::clone(&engine), &options).unwrap();
    let clone = service.clone();
    let gate = watch.gate.lock().unwrap();
    let mut events = service.submit(Job::new(request(prompt(0, 20), 4000))).unwrap();
    eventually("a step", || watch.is_inside_a_step());
    drop((service, gate));
    assert!(matches!(events.blocking_recv(), Some(TokenEvent::Started { .. })), "a clone holds it");
    drop(clone);
    assert_eq!(Arc::strong_count(&engine), 1, "the thread has let go of the engine");
    let mut last = None;
    while let Some(event) = events.blocking_recv() {
        last = Some(event);
    }
    assert!(matches!(last, Some(TokenEvent::Finish { reason: FinishReason::Cancelled, .. })), "{last:?}");
    assert_eq!(engine.allocator().num_free_blocks(), engine.allocator().num_blocks());
}

#[test]
fn generations_outside_share_the_engine_and_its_blocks() {
    let engine = engine("deepseek_v2_lite", &EngineOptions { max_sequences: 1, ..options() });
    let service = service(&engine);
    let outside = request(prompt(0, 70), 20);
    let expected = alone(&engine, outside.clone());
    let mut generation = engine.generate(outside).unwrap();
    generation.step().unwrap().unwrap();
    // There is room for 24 tokens only, until the generation ends.
    let mut events = service.submit(Job::new(request(prompt(1, 40), 5))).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert!(events.try_recv().is_none() && service.health().waiting == 1);
    let steps = (&mut generation).map(Result::unwrap).count();
    assert!(steps > expected.len() - 2);
    drop(generation);
    assert_eq!(Heard::all(&mut events).tokens(0).len(), 5);
    assert_clean(&service);
}

#[test]
fn jobs_and_options_are_checked_by_field() {
    let engine = engine("deepseek_v2_lite", &options());
    let service = service(&engine);
    let good = || Job::new(request(prompt(0, 20), 5));
    let cases = [
        ("n", Job { n: 0, ..good() }),
        ("n", Job { n: 65, ..good() }),
        ("prompt", Job::new(request(vec![], 5))),
        ("max_tokens", Job::new(request(prompt(0, 20), 77))),
    ];
    for (expected, job) in cases {
        match service.submit(job) {
            Err(SubmitError::Invalid(EngineError::Request { field, .. })) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(matches!(service.embed(vec![256], 0, 0), Err(SubmitError::Invalid(_))));
    assert!(service.is_idle());
    type Edit = fn(&mut ServiceOptions);
    let cases: [(&str, Edit); 6] = [
        ("max_num_seqs", |o| o.max_num_seqs = 0),
        ("max_waiting", |o| o.max_waiting = 0),
        ("event_capacity", |o| o.event_capacity = 0),
        ("max_num_batched_tokens", |o| o.max_num_batched_tokens = 65),
        ("max_num_batched_tokens", |o| o.max_num_batched_tokens = 63),
        ("max_num_batched_tokens", |o| (o.max_num_batched_tokens, o.max_num_seqs) = (0, 1)),
    ];
    for (expected, edit) in cases {
        let mut options = service_options();
        edit(&mut options);
        match Service::start(Arc::clone(&engine), &options) {
            Err(EngineError::Options { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn ends_are_those_of_a_generation() {
    let engine = engine("deepseek_v2_lite", &options());
    let service = service(&engine);
    let endless = Request { max_tokens: None, ..request(prompt(0, 90), 1) };
    let heard = run(&service, vec![Job::new(endless)]).remove(0);
    assert_eq!(heard.tokens(0).len(), 6, "the end of the context");
    assert_eq!(heard.finishes[0].unwrap().0, FinishReason::Length);
    let free = alone(&engine, request(prompt(1, 10), 20));
    let stop = free[7].token;
    let first = free.iter().position(|sampled| sampled.token == stop).unwrap();
    let stopped = Request { stop_token_ids: vec![stop], ..request(prompt(1, 10), 20) };
    let heard = run(&service, vec![Job::new(stopped)]).remove(0);
    assert_eq!(heard.sampled[0], free[..first], "a stop token is no part of the output");
    let (reason, stats) = heard.finishes[0].unwrap();
    assert_eq!(reason, FinishReason::Stop(stop));
    assert_eq!((stats.prompt_tokens, stats.generated_tokens, stats.decode_steps), (10, first, first));
    assert!(stats.time_to_first_token.unwrap() >= stats.queued + stats.prefill);
}

#[test]
fn metrics_count_what_happened() {
    let service = service(&engine("deepseek_v2_lite", &options()));
    let jobs = vec![Job { n: 2, ..Job::new(request(prompt(0, 20), 5)) }, Job::new(request(prompt(1, 7), 1))];
    let heard = run(&service, jobs);
    Heard::all(&mut service.embed(prompt(2, 9), 0, 0).unwrap());
    assert_clean(&service);
    let metrics = service.metrics();
    assert_eq!((metrics.prompt_tokens, metrics.generation_tokens), (20 + 7 + 9, 2 * 5 + 1));
    let ends = metrics.request_success;
    assert_eq!((ends.length, ends.stop, ends.abort, ends.error), (3, 1, 0, 0));
    assert_eq!(metrics.time_to_first_token.count(), 3);
    assert_eq!(metrics.inter_token_latency.count(), 2 * 4);
    assert_eq!(metrics.request_queue_time.count(), 3);
    assert_eq!(metrics.e2e_request_latency.count(), 4);
    let queued: f64 = metrics.request_queue_time.sum();
    assert!(queued >= heard[0].finishes[0].unwrap().1.queued.as_secs_f64());
    assert_eq!(metrics.prefix_cache_queries, 20 + 7);
    eventually("gauges at rest", || {
        let metrics = service.metrics();
        (metrics.num_requests_running, metrics.num_requests_waiting) == (0, 0)
            && metrics.kv_cache_usage_perc == 0.0
    });
}
