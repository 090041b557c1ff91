//! Readers that go away, that do not read, and that read late.

use std::sync::Arc;

use engine::{Job, Service, ServiceOptions, TokenEvent, TokenEvents};

use crate::support::{
    Heard, alone, assert_clean, engine, eventually, options, prompt, request, run, service, service_options,
    watched,
};

fn first_token(events: &mut TokenEvents) {
    while !matches!(events.blocking_recv().unwrap(), TokenEvent::Token { .. }) {}
}

#[test]
fn a_reader_that_goes_away_ends_its_job_within_a_step() {
    for n in [1, 3] {
        let (engine, watch) = watched("deepseek_v2_lite", &options());
        // So few that the job cannot end ahead of its reader.
        let options = ServiceOptions { event_capacity: 2, ..service_options() };
        let service = Service::start(Arc::clone(&engine), &options).unwrap();
        let mut events = service.submit(Job { n, ..Job::new(request(prompt(0, 30), 60)) }).unwrap();
        first_token(&mut events);
        let gate = watch.gate.lock().unwrap();
        eventually("a step", || {
            // A job with too much to say takes no step.
            while events.try_recv().is_some() {}
            watch.is_inside_a_step()
        });
        let begun = watch.forwards().len() + 1;
        drop(events);
        drop(gate);
        assert_clean(&service);
        assert_eq!(watch.forwards().len(), begun, "no step after the one under way");
        assert_eq!(service.metrics().request_success.abort, n as u64);
        let health = service.health();
        assert_eq!((health.running, health.waiting), (0, 0));
    }
}

#[test]
fn a_job_that_waits_can_go_away_too() {
    let (engine, watch) = watched("deepseek_v2_lite", &options());
    let service = service(&engine);
    let gate = watch.gate.lock().unwrap();
    let mut first = service.submit(Job::new(request(prompt(0, 30), 3))).unwrap();
    eventually("a step", || watch.is_inside_a_step());
    let second = service.submit(Job::new(request(prompt(1, 30), 60))).unwrap();
    assert_eq!((service.health().running, service.health().waiting), (1, 1));
    drop(second);
    drop(gate);
    assert_eq!(Heard::all(&mut first).tokens(0).len(), 3);
    assert_clean(&service);
    assert_eq!(watch.forwards(), [30, 1, 1], "it was never computed");
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody_and_misses_nothing() {
    for capacity in [1, 2] {
        let engine = engine("deepseek_v2_lite", &options());
        let options = ServiceOptions { event_capacity: capacity, ..service_options() };
        let service = Service::start(Arc::clone(&engine), &options).unwrap();
        let slow_request = request(prompt(0, 20), 50);
        let mut slow = service.submit(Job { n: 2, ..Job::new(slow_request.clone()) }).unwrap();
        let others: Vec<_> = (1..5).map(|kind| request(prompt(kind, 20), 30)).collect();
        // These are read as they come, so that they end while the other one stands still.
        let heard: Vec<_> = others
            .iter()
            .map(|request| {
                let mut events = service.submit(Job::new(request.clone())).unwrap();
                Heard::all(&mut events)
            })
            .collect();
        for (heard, request) in heard.iter().zip(&others) {
            assert_eq!(heard.sampled[0], alone(&engine, request.clone()));
        }
        let ahead = service.metrics().generation_tokens - 4 * 30;
        assert!(ahead <= capacity as u64 + 3, "the slow one got {ahead} tokens ahead of its reader");
        assert!(!service.is_idle());
        let heard = Heard::all(&mut slow);
        let single = alone(&engine, slow_request);
        assert_eq!([&heard.sampled[0], &heard.sampled[1]], [&single, &single]);
        assert_clean(&service);
    }
}

#[test]
fn an_unread_end_waits_for_its_reader_or_its_loss() {
    let engine = engine("deepseek_v2_lite", &options());
    let options = ServiceOptions { event_capacity: 1, ..service_options() };
    let service = Service::start(Arc::clone(&engine), &options).unwrap();
    for reads in [true, false] {
        let mut events = service.submit(Job::new(request(prompt(0, 20), 1))).unwrap();
        eventually("its blocks return", || {
            service.health().running == 1
                && service.metrics().request_success.length == if reads { 1 } else { 2 }
        });
        assert!(!service.is_idle(), "two of three events are unread");
        if reads {
            let heard = Heard::all(&mut events);
            assert_eq!((heard.sampled[0].len(), heard.finishes[0].is_some()), (1, true));
        }
        drop(events);
        assert_clean(&service);
    }
    assert_eq!(service.metrics().request_success.abort, 0, "it had ended well");
}

#[test]
fn paused_jobs_make_room_for_others() {
    let reference = engine("deepseek_v2_lite", &options());
    // One context is all there is, and a reader that does not read holds two thirds of it.
    let engine = engine("deepseek_v2_lite", &engine::EngineOptions { max_sequences: 1, ..options() });
    let options = ServiceOptions { event_capacity: 2, ..service_options() };
    let service = Service::start(engine, &options).unwrap();
    let slow_request = request(prompt(0, 64), 20);
    let mut slow = service.submit(Job::new(slow_request.clone())).unwrap();
    eventually("a stalled job", || service.metrics().generation_tokens >= 2);
    let other = request(prompt(1, 60), 20);
    let heard = run(&service, vec![]);
    assert!(heard.is_empty());
    let mut events = service.submit(Job::new(other.clone())).unwrap();
    assert_eq!(Heard::all(&mut events).sampled[0], alone(&reference, other));
    assert!(service.metrics().num_preemptions > 0);
    assert_eq!(Heard::all(&mut slow).sampled[0], alone(&reference, slow_request));
    assert_clean(&service);
}
