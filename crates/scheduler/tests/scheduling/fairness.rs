//! Owners share the machine, and nobody waits for ever.

use std::collections::BTreeMap;

use proptest::prelude::*;
use scheduler::{Chunk, SchedulerOptions};

use crate::world::{World, options};

/// Runs one step and adds its tokens to the account of each owner.
fn step(world: &mut World, account: &mut BTreeMap<u64, usize>) -> Vec<Chunk> {
    let plan = world.schedule();
    for chunk in &plan.chunks {
        *account.entry(world.jobs[&chunk.id.0].owner).or_default() += chunk.tokens.len();
    }
    let sampled = world.run(&plan);
    let chunks = plan.chunks.clone();
    world.commit(plan, &sampled);
    world.finish_complete();
    chunks
}

#[test]
fn a_newcomer_does_not_queue_behind_a_crowd() {
    let mut world = World::new(64, 4, options(2, 8, false));
    for _ in 0..50 {
        world.add(1, 0, &[1; 8], 2, 1);
    }
    let mut account = BTreeMap::new();
    for _ in 0..4 {
        step(&mut world, &mut account);
    }
    let newcomer = world.add(2, 0, &[2; 8], 2, 1);
    let mut steps = 0;
    while world.jobs.contains_key(&newcomer) {
        step(&mut world, &mut account);
        steps += 1;
    }
    assert!(steps <= 4, "one slot has to become free, then two steps of its own: {steps}");
}

#[test]
fn a_long_prompt_lets_short_ones_of_others_pass() {
    let mut world = World::new(256, 4, options(4, 8, false));
    let long = world.add(1, 0, &[1; 400], 1, 1);
    let mut account = BTreeMap::new();
    step(&mut world, &mut account);
    let short = world.add(2, 0, &[2; 8], 2, 1);
    // Both owners are even at first, and the older goes first; then the short one has two steps.
    for _ in 0..3 {
        step(&mut world, &mut account);
    }
    assert!(!world.jobs.contains_key(&short) && world.jobs.contains_key(&long));
    world.run_to_the_end();
}

#[test]
fn inside_an_owner_the_first_to_come_is_the_first_served() {
    let mut world = World::new(64, 4, options(2, 8, false));
    for len in [7, 3, 9, 1, 8, 2] {
        world.add(1, 0, &vec![1; len], 1, 1);
    }
    let mut order = Vec::new();
    let mut account = BTreeMap::new();
    while !world.jobs.is_empty() {
        for chunk in step(&mut world, &mut account).iter().filter(|chunk| chunk.start == 0) {
            order.push(chunk.id.0);
        }
    }
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn owners_get_equal_shares_whatever_they_ask_for() {
    // One sends short prompts with long answers, another long prompts with short answers, the third both, and more.
    let asks: [&[(usize, usize)]; 3] = [&[(2, 20)], &[(30, 1)], &[(2, 20), (30, 1), (10, 10)]];
    let mut world = World::new(256, 4, options(6, 24, false));
    let mut account = BTreeMap::new();
    let mut turn = 0;
    for _ in 0..1500 {
        for (owner, asks) in asks.iter().enumerate() {
            while world.jobs.values().filter(|job| job.owner == owner as u64).count() < 8 + owner {
                let (len, max_tokens) = asks[turn % asks.len()];
                world.add(owner as u64, 0, &vec![1; len], max_tokens, 1);
                turn += 1;
            }
        }
        step(&mut world, &mut account);
    }
    let (least, most) = (account.values().min().unwrap(), account.values().max().unwrap());
    // What differs is what is under way: a few sequences of at most 31 tokens each.
    assert!(most - least < 4 * 31, "{account:?}");
    assert!(*least > 3000, "{account:?}");
}

#[test]
fn tokens_computed_again_are_not_charged_again() {
    let mut world = World::new(6, 4, options(2, 16, false));
    // Both owners stay, the second one for longer.
    for owner in [2, 1] {
        let id = world.add(owner, 0, &[1], 1, 1);
        world.pause(id, true);
    }
    for owner in [1, 2] {
        world.add(owner, 0, &[1; 5], 19, 1);
    }
    while world.step() {}
    assert_eq!(world.preempted, 1, "the second one computed its prompt twice");
    for owner in [1, 2] {
        world.add(owner, 0, &[1; 5], 1, 1);
    }
    let owners: Vec<u64> = world.schedule().chunks.iter().map(|c| world.jobs[&c.id.0].owner).collect();
    assert_eq!(owners, [2, 1], "they are even");
}

#[test]
fn two_that_do_not_fit_together_do_not_fight_for_ever() {
    for prefix_cache in [false, true] {
        let mut world = World::new(6, 4, options(2, 8, prefix_cache));
        world.add(1, 0, &[1; 5], 19, 1);
        world.add(2, 1, &[2; 5], 19, 1);
        world.run_to_the_end();
        assert!((1..=2).contains(&world.preempted), "{} preemptions", world.preempted);
    }
}

/// What the others do in one step.
#[derive(Debug, Clone)]
struct Rivals {
    owner: u64,
    len: usize,
    max_tokens: usize,
    n: u64,
    count: usize,
    pause: Option<usize>,
    cancel: Option<usize>,
}

fn rivals() -> impl Strategy<Value = Rivals> {
    let choice = || prop::option::weighted(0.2, 0usize..16);
    (0u64..4, 1usize..9, 0usize..8, 1u64..4, 0usize..4, choice(), choice()).prop_map(
        |(owner, len, max_tokens, n, count, pause, cancel)| Rivals {
            owner,
            len,
            max_tokens,
            n,
            count,
            pause,
            cancel,
        },
    )
}

/// Whatever the rivals do, and however many new names they take, the sequence finishes within the bound. Rival 0 is the
/// sequence's own owner; rival 3 is somebody else each time.
fn finishes(world: &mut World, id: u64, rivals: &[Rivals], bound: usize) {
    let mut names = 100;
    for turn in 0.. {
        if !world.jobs.contains_key(&id) {
            return;
        }
        assert!(turn < bound, "still not finished: {:?}, {:?}", world.jobs[&id], world.scheduler.stats());
        let rival = &rivals[turn % rivals.len()];
        let nth = |world: &World, i: usize| world.jobs.keys().filter(|k| **k != id).nth(i).copied();
        for _ in 0..rival.count {
            names += 1;
            let owner = if rival.owner == 3 { names } else { rival.owner };
            let _ = world.try_add(owner, 0, &vec![1; rival.len], rival.max_tokens, rival.n);
        }
        if let Some(id) = rival.pause.and_then(|i| nth(world, i)) {
            world.pause(id, turn % 2 == 0);
        }
        if let Some(id) = rival.cancel.and_then(|i| nth(world, i)) {
            world.cancel(id);
        }
        world.step();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_that_fits_finishes(
        blocks in 4usize..12,
        max_num_seqs in 3usize..5,
        more in 0usize..6,
        prefix_cache: bool,
        before in prop::collection::vec(rivals(), 0..8),
        rivals in prop::collection::vec(rivals(), 1..24),
    ) {
        let max_num_batched_tokens = max_num_seqs + more;
        let options = SchedulerOptions { max_num_seqs, max_num_batched_tokens, max_waiting: 6, prefix_cache };
        let mut world = World::new(blocks, 4, options);
        for rival in &before {
            for _ in 0..rival.count {
                let _ = world.try_add(rival.owner, 0, &vec![1; rival.len], rival.max_tokens, rival.n);
            }
            world.step();
        }
        let id = loop {
            match world.try_add(0, 0, &[2; 9], 7, 1) {
                Ok(id) => break id,
                Err(_) => world.step(),
            };
        };
        finishes(&mut world, id, &rivals, 1000);
    }
}

#[test]
fn a_stream_of_newcomers_does_not_starve_whoever_had_more_than_its_share() {
    let mut world = World::new(64, 4, options(1, 8, false));
    let mut account = BTreeMap::new();
    // Owner 1 had the machine while another waited for nothing.
    let idle = world.add(2, 0, &[1; 4], 4, 1);
    world.pause(idle, true);
    for _ in 0..10 {
        world.add(1, 0, &[1; 8], 4, 1);
    }
    for _ in 0..30 {
        step(&mut world, &mut account);
    }
    let waiting = *world.jobs.iter().rfind(|(_, job)| job.owner == 1).unwrap().0;
    let mut owner = 100;
    for turn in 0.. {
        assert!(turn < 400, "starved after {:?}", account.get(&1));
        while world.scheduler.stats().waiting < 8 {
            owner += 1;
            world.add(owner, 0, &[2; 8], 1, 1);
        }
        step(&mut world, &mut account);
        if !world.jobs.contains_key(&waiting) {
            break;
        }
    }
}
