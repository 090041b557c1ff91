//! Conversations of V4 with a prefix cache: shared beginnings, branches, blocks and snapshots that are taken away. The
//! answers are those of single runs that find nothing.

use std::sync::Arc;

use engine::{Drafter, Engine, EngineOptions, Job, Request};
use testkit::Random;

use crate::speculation::{engine, guessing, ranks};
use crate::support::{alone, assert_clean, options, prompt, request, run, seeded, service};

const MODEL: &str = "deepseek_v4_smallhca";

/// What was said so far, and how many turns are to come.
struct Conversation {
    history: Vec<u32>,
    turns: usize,
}

/// Conversations that are held a few at a time, and those that are over.
struct Talk {
    random: Random,
    open: Vec<Conversation>,
    over: Vec<Vec<u32>>,
    begun: usize,
    context_len: usize,
}

/// What the turns found in the cache.
#[derive(Debug, Default)]
struct Found {
    turns: usize,
    hits: usize,
    tokens: usize,
    prompt_tokens: usize,
    /// Blocks that were known once and are no more.
    evicted: u64,
}

impl Talk {
    /// A conversation begins with one of a few texts that all share, or branches off another one, at its end or before.
    fn begin(&mut self) {
        self.begun += 1;
        let kind = self.random.below(4) as u32;
        let mut history = prompt(kind, self.context_len as u32 / 4 + 3 * kind);
        if !self.over.is_empty() && self.random.below(2) == 0 {
            // Rather one of late, whose blocks may be there still.
            let recent = self.over.len().saturating_sub(6);
            let from = &self.over[recent + self.random.below(self.over.len() - recent)];
            history = from[..1 + self.random.below(from.len())].to_vec();
        }
        self.open.push(Conversation { history, turns: 2 + self.random.below(3) });
    }

    /// The next turn of every open conversation.
    fn ask(&mut self) -> Vec<Request> {
        let Self { random, open, context_len, .. } = self;
        let turn = |conversation: &mut Conversation| {
            conversation.history.truncate(*context_len * 3 / 4);
            let words = 1 + random.below(9);
            conversation.history.extend((0..words).map(|_| random.below(240) as u32));
            let request = request(conversation.history.clone(), 1 + random.below(12));
            if random.below(3) == 0 { seeded(request, random.next_u64()) } else { request }
        };
        open.iter_mut().map(turn).collect()
    }

    fn answer(&mut self, answers: Vec<Vec<u32>>) {
        for (conversation, answer) in self.open.iter_mut().zip(answers) {
            conversation.history.extend(answer);
            conversation.turns -= 1;
        }
        let (open, over) = std::mem::take(&mut self.open).into_iter().partition(|c| c.turns > 0);
        self.open = open;
        self.over.extend(over.into_iter().map(|conversation: Conversation| conversation.history));
    }
}

/// Holds `count` conversations, seven at a time.
fn hold(cached: &Arc<Engine>, reference: &Arc<Engine>, count: usize) -> Found {
    let service = service(cached);
    let context_len = cached.context_len();
    let (random, open, over) = (Random::new(23), Vec::new(), Vec::new());
    let mut talk = Talk { random, open, over, begun: 0, context_len };
    let mut found = Found::default();
    while talk.over.len() < count {
        while talk.open.len() < 7 && talk.begun < count {
            talk.begin();
        }
        let requests = talk.ask();
        let heard = run(&service, requests.iter().cloned().map(Job::new).collect());
        for (heard, request) in heard.iter().zip(&requests) {
            let (cached, len) = (heard.cached_tokens.unwrap(), request.prompt.len());
            let words = format!("turn {}, {cached} of {len} tokens from the cache", found.turns);
            assert_eq!(
                (&heard.failed, &heard.sampled[0]),
                (&None, &alone(reference, request.clone())),
                "{words}"
            );
            found.turns += 1;
            found.hits += usize::from(cached > 0);
            (found.tokens, found.prompt_tokens) = (found.tokens + cached, found.prompt_tokens + len);
        }
        talk.answer(heard.iter().map(|heard| heard.tokens(0)).collect());
    }
    assert_clean(&service);
    found.evicted = service.metrics().prefix_misses.evicted;
    found
}

/// Few snapshots and few blocks, so that both are taken away again.
fn tight(context_len: usize) -> EngineOptions {
    let context_len = Some(context_len);
    EngineOptions { context_len, max_sequences: 4, state_snapshots: 12, ..options() }
}

#[test]
fn two_hundred_conversations() {
    let reference = engine(MODEL, &options());
    let found = hold(&engine(MODEL, &tight(96)), &reference, 200);
    assert!(found.turns > 500 && found.hits * 2 > found.turns && found.evicted > 10, "{found:?}");
}

#[test]
fn guessed_conversations() {
    let reference = engine(MODEL, &options());
    let speculation = guessing(Drafter::Ngram, 5).speculation;
    let found = hold(&engine(MODEL, &EngineOptions { speculation, ..tight(96) }), &reference, 60);
    assert!(found.hits * 3 > found.turns, "{found:?}");
}

#[test]
fn conversations_with_blocks_of_128_tokens() {
    let fixture = "deepseek_v4";
    let reference = engine(fixture, &EngineOptions { context_len: Some(768), ..options() });
    let speculation = guessing(Drafter::Mtp, 2).speculation;
    let found = hold(&engine(fixture, &EngineOptions { speculation, ..tight(768) }), &reference, 25);
    assert!(found.hits * 3 > found.turns, "{found:?}");
}

#[test]
fn conversations_on_ranks() {
    let [cached, reference] = [&tight(96), &options()].map(|options| ranks(MODEL, 2, options).unwrap());
    let found = hold(&cached, &reference, 20);
    assert!(found.hits * 3 > found.turns, "{found:?}");
}
