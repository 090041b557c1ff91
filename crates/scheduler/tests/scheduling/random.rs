//! Random histories: whatever comes in whatever order, every sequence reads its own history and nothing leaks.

use proptest::prelude::*;
use scheduler::{BlockAllocator, SchedulerOptions};

use crate::world::World;

#[derive(Debug, Clone)]
enum Event {
    Add { owner: u64, salt: u64, pattern: u32, len: usize, max_tokens: usize, n: u64 },
    Cancel(usize),
    Pause(usize, bool),
    TakeOutside(usize),
    DropOutside(usize),
}

/// How a plan ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Commit,
    /// One of the sampling sequences gets no token.
    CommitWithout(usize),
    Abort,
    Lose,
}

/// A step, with what happens before it and while it is under way.
#[derive(Debug, Clone)]
struct Turn {
    before: Vec<Event>,
    /// How many tokens are guessed, and how many of them rightly.
    guesses: (usize, usize),
    meanwhile: Vec<Event>,
    end: End,
}

fn event() -> impl Strategy<Value = Event> {
    let add = (0u64..3, 0u64..2, 0u32..3, 1usize..20, 0usize..9, 1u64..4);
    prop_oneof![
        6 => add.prop_map(|(owner, salt, pattern, len, max_tokens, n)| {
            Event::Add { owner, salt, pattern, len, max_tokens, n }
        }),
        2 => any::<prop::sample::Index>().prop_map(|i| Event::Cancel(i.index(64))),
        2 => (0usize..64, any::<bool>()).prop_map(|(i, paused)| Event::Pause(i, paused)),
        1 => (1usize..20).prop_map(Event::TakeOutside),
        2 => (0usize..8).prop_map(Event::DropOutside),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    let end = prop_oneof![
        8 => Just(End::Commit),
        2 => (0usize..4).prop_map(End::CommitWithout),
        1 => Just(End::Abort),
        1 => Just(End::Lose),
    ];
    let events = |most| prop::collection::vec(event(), 0..most);
    (events(3), (0usize..4, 0usize..4), events(4), end).prop_map(|(before, guesses, meanwhile, end)| Turn {
        before,
        guesses,
        meanwhile,
        end,
    })
}

/// Prompts that share prefixes of any length.
fn prompt(pattern: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| if i % 7 == 5 { pattern } else { i % 3 }).collect()
}

fn apply(world: &mut World, event: &Event) {
    let nth = |world: &World, i: usize| {
        let count = world.jobs.len().max(1);
        world.jobs.keys().nth(i % count).copied()
    };
    match *event {
        Event::Add { owner, salt, pattern, len, max_tokens, n } => {
            // Too long for the pool, or too many: refused, and nothing has changed.
            let _ = world.try_add(owner, salt, &prompt(pattern, len), max_tokens, n);
        }
        Event::Cancel(i) => nth(world, i).into_iter().for_each(|id| world.cancel(id)),
        Event::Pause(i, paused) => nth(world, i).into_iter().for_each(|id| world.pause(id, paused)),
        Event::TakeOutside(tokens) => {
            world.take_outside(tokens);
        }
        Event::DropOutside(i) => {
            if !world.outside.is_empty() {
                let at = i % world.outside.len();
                world.outside.swap_remove(at);
            }
        }
    }
}

fn play(world: &mut World, turn: &Turn) {
    turn.before.iter().for_each(|event| apply(world, event));
    world.guess(turn.guesses.0, turn.guesses.1);
    let plan = world.schedule();
    turn.meanwhile.iter().for_each(|event| apply(world, event));
    match turn.end {
        End::Abort => world.abort(plan),
        End::Lose => {
            world.run(&plan);
        }
        End::Commit | End::CommitWithout(_) => {
            let mut sampled = world.run(&plan);
            if let End::CommitWithout(i) = turn.end
                && !sampled.is_empty()
            {
                let (without, _) = sampled[i % sampled.len()];
                sampled.retain(|&(id, _)| id != without);
            }
            world.commit(plan, &sampled);
        }
    }
    world.finish_complete();
}

/// Everybody reads, nobody holds blocks outside: all that is left must end, and soon.
fn wind_up(world: &mut World) {
    let ids: Vec<u64> = world.jobs.keys().copied().collect();
    ids.into_iter().for_each(|id| world.pause(id, false));
    world.outside.clear();
    let tokens: usize = world.jobs.values().map(|job| job.prompt_len + job.max_tokens + 1).sum();
    let steps = world.run_to_the_end();
    assert!(steps <= tokens * 2, "{steps} steps for {tokens} tokens");
    let stats = world.scheduler.stats();
    assert_eq!((stats.running, stats.waiting, stats.num_used_blocks), (0, 0, 0));
    assert_eq!(world.allocator.num_free_blocks(), world.allocator.num_blocks());
}

fn weak(before: u64, tokens: &[u32]) -> u64 {
    (before + u64::from(tokens[0])) % 2
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_reads_its_own_history(
        blocks in 1usize..14,
        size in 1usize..5,
        max_num_seqs in 1usize..6,
        more in 0usize..10,
        prefix_cache: bool,
        weak_hash: bool,
        snapshots in prop::option::of(0usize..5),
        turns in prop::collection::vec(turn(), 0..40),
    ) {
        let allocator = if weak_hash {
            BlockAllocator::with_hash(blocks, size, weak).unwrap()
        } else {
            BlockAllocator::new(blocks, size).unwrap()
        };
        let max_num_batched_tokens = max_num_seqs + more;
        let options = SchedulerOptions { max_num_seqs, max_num_batched_tokens, max_waiting: 6, prefix_cache };
        let mut world = match snapshots {
            Some(count) => World::with_snapshots(allocator, count, options),
            None => World::over(allocator, options),
        };
        for turn in &turns {
            play(&mut world, turn);
        }
        wind_up(&mut world);
    }
}
