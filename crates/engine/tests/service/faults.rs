//! Whoever is guilty fails, and nobody else.

use engine::{Constraint, Job, Service, SubmitError};

use crate::support::{
    FAILS, GIVES_NAN, Heard, PANICS, alone, assert_clean, engine, eventually, options, prompt, ranks,
    request, run, seeded, service, watched,
};

/// Tokens whose number is a multiple of `step`, below `end`.
#[derive(Clone)]
pub(crate) struct Multiples {
    words: Vec<u32>,
}

impl Multiples {
    pub(crate) fn new(step: usize, end: usize) -> Self {
        let mut words = vec![0; end.div_ceil(32)];
        (0..end).step_by(step).for_each(|token| words[token / 32] |= 1 << (token % 32));
        Self { words }
    }
}

impl Constraint for Multiples {
    fn allowed(&mut self) -> Option<&[u32]> {
        Some(&self.words)
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        let word = self.words.get(token as usize / 32).copied().unwrap_or(0);
        if word >> (token % 32) & 1 == 1 { Ok(()) } else { Err(format!("{token} was not allowed")) }
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// Forces these tokens, one after the other; then it behaves as `after` says.
#[derive(Clone)]
pub(crate) struct Script {
    tokens: Vec<u32>,
    at: usize,
    after: After,
    words: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum After {
    Anything,
    Nothing,
    Refuse,
    Panic,
}

impl Script {
    pub(crate) fn boxed(tokens: &[u32], after: After) -> Box<dyn Constraint> {
        Box::new(Self { tokens: tokens.to_vec(), at: 0, after, words: Vec::new() })
    }
}

impl Constraint for Script {
    fn allowed(&mut self) -> Option<&[u32]> {
        self.words = vec![0; 8];
        match (self.tokens.get(self.at), self.after) {
            (Some(&token), _) => self.words[token as usize / 32] |= 1 << (token % 32),
            (None, After::Anything | After::Refuse) => return None,
            (None, After::Nothing) => {}
            (None, After::Panic) => panic!("a planted panic"),
        }
        Some(&self.words)
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        let expected = self.tokens.get(self.at);
        self.at += 1;
        match (expected, self.after) {
            (None, After::Refuse) => Err(format!("no to token {token}")),
            (None, _) => Ok(()),
            (Some(expected), _) if *expected == token => Ok(()),
            (Some(expected), _) => Err(format!("{token} is not {expected}")),
        }
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[test]
fn a_constraint_masks_its_own_row_only() {
    let engine = engine("deepseek_v2_lite", &options());
    let requests: Vec<_> = (0..6).map(|i| seeded(request(prompt(i, 9 + i), 20), u64::from(i))).collect();
    // The mask of some is shorter than the vocabulary: what is beyond may not come.
    let mask = |i: usize| i.is_multiple_of(2).then(|| Multiples::new(3, 256 - 16 * i));
    let jobs = requests.iter().enumerate().map(|(i, request)| Job {
        constraint: mask(i).map(|mask| Box::new(mask) as Box<dyn Constraint>),
        ..Job::new(request.clone())
    });
    let heard = run(&service(&engine), jobs.collect());
    for (i, (heard, request)) in heard.iter().zip(&requests).enumerate() {
        assert_eq!(heard.failed, None);
        let mut expected = request.clone();
        if let Some(mut mask) = mask(i) {
            let banned = (0..256).filter(|token| mask.accept(*token).is_err());
            expected.sampling.logit_bias.extend(banned.map(|token| (token, f32::NEG_INFINITY)));
        }
        assert_eq!(heard.sampled[0], alone(&engine, expected), "request {i}");
    }
}

#[test]
fn siblings_have_constraints_of_their_own() {
    let service = service(&engine("deepseek_v2_lite", &options()));
    let script = [7, 9, 200, 31, 32, 7];
    let request = seeded(request(prompt(0, 10), 9), 1);
    let job = Job { n: 3, constraint: Some(Script::boxed(&script, After::Anything)), ..Job::new(request) };
    let heard = run(&service, vec![job]).remove(0);
    for index in 0..3 {
        assert_eq!(heard.tokens(index)[..6], script);
        assert_eq!(heard.tokens(index).len(), 9);
    }
}

#[test]
fn a_stop_token_is_not_accepted_by_the_constraint() {
    let service = service(&engine("deepseek_v2_lite", &options()));
    let stopping = engine::Request { stop_token_ids: vec![5], ..request(prompt(0, 10), 9) };
    let job = Job { constraint: Some(Script::boxed(&[7, 5], After::Panic)), ..Job::new(stopping) };
    let heard = run(&service, vec![job]).remove(0);
    assert_eq!((heard.failed.clone(), heard.tokens(0)), (None, vec![7]));
    assert_eq!(heard.finishes[0].unwrap().0, engine::FinishReason::Stop(5));
}

/// The keys of a chunk that failed are not in the cache, whoever asks for the same prefix next.
#[test]
fn what_failed_in_the_middle_of_a_prompt_is_not_found_by_others() {
    let (engine, watch) = watched("deepseek_v2_lite", &options());
    let service = service(&engine);
    let shared = prompt(0, 20);
    // Two steps long: nobody samples from the chunk that panics before it has computed anything.
    let bad: Vec<u32> = [&shared[..], &[PANICS], &prompt(1, 60)[..]].concat();
    let gate = watch.gate.lock().unwrap();
    let first = service.submit(Job::new(request(prompt(2, 5), 8))).unwrap();
    let bad = service.submit(Job::new(request(bad, 4))).unwrap();
    drop(gate);
    let [mut first, mut bad] = [first, bad];
    assert!(Heard::all(&mut bad).failed.is_some());
    assert_eq!(Heard::all(&mut first).failed, None);
    let good = request([&shared[..], &prompt(3, 5)[..]].concat(), 6);
    let heard = run(&service, vec![Job::new(good.clone())]).remove(0);
    assert_eq!((heard.failed.clone(), &heard.sampled[0]), (None, &alone(&engine, good)));
    assert_clean(&service);
}

/// Nor are those of a row that gave no distribution.
#[test]
fn keys_that_gave_nan_are_not_found_by_others() {
    let service = service(&engine("deepseek_v2_lite", &options()));
    let bad = [&prompt(0, 20)[..], &[GIVES_NAN]].concat();
    assert!(run(&service, vec![Job::new(request(bad.clone(), 4))]).remove(0).failed.is_some());
    let heard = run(&service, vec![Job::new(request([&bad[..], &prompt(3, 9)[..]].concat(), 4))]).remove(0);
    assert_eq!((heard.failed, heard.cached_tokens), (None, Some(0)));
}

/// One bad job among good ones: it fails with `words`, and the others are what they are alone.
fn check_one_bad(what: &str, bad: Job, words: &str, sampled_before: usize) {
    let (engine, watch) = watched("deepseek_v2_lite", &options());
    let service = service(&engine);
    let good: Vec<_> = (0..8).map(|i| seeded(request(prompt(i, 20 + i), 12), u64::from(i))).collect();
    let gate = watch.gate.lock().unwrap();
    let submit = |request: &engine::Request| service.submit(Job::new(request.clone())).unwrap();
    let mut before: Vec<_> = good[..4].iter().map(submit).collect();
    let mut bad = service.submit(bad).unwrap();
    let mut after: Vec<_> = good[4..].iter().map(submit).collect();
    drop(gate);
    let bad = Heard::all(&mut bad);
    let (error, is_request) = bad.failed.clone().unwrap();
    assert!(error.contains(words) && is_request, "{what}: {error}");
    assert_eq!(bad.tokens(0).len(), sampled_before, "{what}");
    for (events, request) in before.iter_mut().chain(&mut after).zip(&good) {
        let heard = Heard::all(events);
        assert_eq!(heard.failed, None, "{what}");
        assert_eq!(heard.sampled[0], alone(&engine, request.clone()), "{what}");
    }
    assert!(watch.forwards().into_iter().max() > Some(1), "{what}: they ran together");
    assert_clean(&service);
    assert!(service.health().alive, "{what}");
    let counts = service.metrics().request_success;
    assert_eq!((counts.error, counts.length), (1, 8), "{what}");
}

#[test]
fn a_constraint_that_fails_fails_its_own_job() {
    for (after, words) in [
        (After::Nothing, "none of the tokens it allows can come"),
        (After::Refuse, "no to token"),
        (After::Panic, "panicked: a planted panic"),
    ] {
        let constraint = Some(Script::boxed(&[3, 4], after));
        let job = Job { constraint, ..Job::new(request(prompt(9, 20), 12)) };
        check_one_bad(&format!("{after:?}"), job, words, 2);
    }
}

#[test]
fn a_step_that_fails_costs_only_whoever_is_guilty() {
    for (token, words) in [
        (FAILS, "test has a planted one"),
        (PANICS, "a step panicked: a planted panic"),
        (GIVES_NAN, "there is no distribution to sample from"),
    ] {
        let mut guilty = prompt(9, 20);
        guilty[19] = token;
        check_one_bad(&format!("token {token}"), Job::new(request(guilty, 12)), words, 0);
    }
}

/// The tokens come from a script, so that the guilty one has long been decoding.
#[test]
fn a_decode_step_that_fails_costs_only_whoever_is_guilty() {
    for (token, words) in [(FAILS, "test has a planted one"), (GIVES_NAN, "there is no distribution")] {
        let mut request = request(prompt(9, 20), 12);
        request.sampling.logit_bias.clear();
        let constraint = Some(Script::boxed(&[3, 4, 5, token], After::Anything));
        check_one_bad(&format!("decode {token}"), Job { constraint, ..Job::new(request) }, words, 4);
    }
}

#[test]
fn a_guilty_sibling_ends_its_whole_job() {
    let service = service(&engine("deepseek_v2_lite", &options()));
    let mut guilty = request(prompt(9, 20), 12);
    guilty.sampling.logit_bias.clear();
    let constraint = Some(Script::boxed(&[3, FAILS], After::Anything));
    let heard = run(&service, vec![Job { n: 3, constraint, ..Job::new(guilty) }]).remove(0);
    assert!(heard.failed.unwrap().0.contains("a planted one"));
    assert_eq!(service.metrics().request_success.error, 3);
    assert_clean(&service);
}

#[test]
fn a_lost_rank_is_the_end_of_all() {
    for token in [FAILS, PANICS] {
        let (engine, watch) = ranks("deepseek_v2_lite", 2);
        let service = service(&engine);
        let gate = watch.gate.lock().unwrap();
        let mut good = service.submit(Job::new(request(prompt(0, 20), 60))).unwrap();
        eventually("a step", || watch.is_inside_a_step());
        let mut guilty = prompt(1, 20);
        guilty[3] = token;
        let mut bad = service.submit(Job::new(request(guilty, 12))).unwrap();
        let mut late = service.submit(Job::new(request(prompt(2, 20), 12))).unwrap();
        drop(gate);
        for events in [&mut good, &mut bad, &mut late] {
            let (error, is_request) = Heard::all(events).failed.unwrap();
            assert!(!is_request && error.contains("rank 1 failed"), "{error}");
        }
        check_dead(&service);
    }
}

/// Submitted while the last step runs, it waits for an engine that does not come back.
#[test]
fn a_job_that_a_dying_engine_never_heard_of_is_told_why() {
    let (engine, watch) = ranks("deepseek_v2_lite", 2);
    let service = service(&engine);
    let gate = watch.gate.lock().unwrap();
    let mut guilty = prompt(1, 20);
    guilty[3] = FAILS;
    let mut bad = service.submit(Job::new(request(guilty, 12))).unwrap();
    eventually("a step", || watch.is_inside_a_step());
    let mut late = service.submit(Job::new(request(prompt(2, 20), 12))).unwrap();
    drop(gate);
    for events in [&mut bad, &mut late] {
        let (error, is_request) = Heard::all(events).failed.unwrap();
        assert!(!is_request && error.contains("rank 1 failed"), "{error}");
    }
    check_dead(&service);
}

fn check_dead(service: &Service) {
    eventually("death", || !service.health().alive);
    let Err(SubmitError::Dead { reason }) = service.submit(Job::new(request(prompt(0, 3), 2))) else {
        panic!("a dead engine takes nothing");
    };
    assert!(reason.contains("rank 1 failed") && reason.contains("planted"), "{reason}");
    assert_eq!(service.health().error, Some(reason));
    assert!(service.is_idle());
}
