//! Sequences that keep state: a prefix is found where a snapshot of its state is, and snapshots are where they are of use.

use scheduler::BlockAllocator;

use crate::world::{World, alone, options};

fn world(blocks: usize, snapshots: usize) -> World {
    let allocator = BlockAllocator::new(blocks, 4).unwrap();
    World::with_snapshots(allocator, snapshots, options(4, 16, true))
}

/// Runs a prompt alone; how much of it came from the cache.
fn cached(world: &mut World, prompt: &[u32]) -> usize {
    let id = world.add(0, 0, prompt, 1, 1);
    let mut cached = None;
    while world.jobs.contains_key(&id) {
        let plan = world.schedule();
        cached.get_or_insert(plan.chunks[0].cached_tokens);
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
        world.finish_complete();
    }
    cached.unwrap()
}

fn tokens(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

#[test]
fn a_prompt_is_found_again_at_its_last_block() {
    let mut world = world(32, 4);
    assert_eq!(cached(&mut world, &tokens(0..30)), 0);
    assert_eq!(cached(&mut world, &tokens(0..30)), 28);
    assert_eq!(cached(&mut world, &tokens(0..40)), 28);
    assert_eq!(cached(&mut world, &tokens(0..40)), 36, "a token is left to compute");
}

/// What two prompts share becomes a snapshot when the second comes, so that the third finds it.
#[test]
fn a_branch_is_found_from_its_third_visit_on() {
    let mut world = world(32, 4);
    let turn = |end: u32| [tokens(0..18), vec![end; 9]].concat();
    assert_eq!(cached(&mut world, &turn(100)), 0);
    assert_eq!(cached(&mut world, &turn(101)), 0, "the state where they part is not there yet");
    assert_eq!(cached(&mut world, &turn(102)), 16);
    assert_eq!(cached(&mut world, &turn(103)), 16);
}

/// An answer that is guessed goes past the ends of blocks; the next turn goes on from the last that it reached.
#[test]
fn guesses_go_past_a_block_and_leave_its_state() {
    for (count, right) in [(1, 1), (3, 3), (3, 1), (3, 0), (7, 7), (7, 4), (7, 0)] {
        let mut world = world(32, 4);
        let id = world.add(0, 0, &tokens(0..9), 25, 1);
        while world.jobs.contains_key(&id) {
            world.guess(count, right);
            world.step();
        }
        let next = [tokens(0..9), alone(id, &tokens(0..9), 25), vec![9, 9, 9]].concat();
        let found = cached(&mut world, &next);
        // 33 tokens have keys; the last one sampled has none.
        assert_eq!(found, 32, "{count} guesses, {right} right");
    }
}

/// A state behind wrong guesses is that of no block, not even of the one whose own it was written over.
#[test]
fn wrong_guesses_leave_no_state() {
    let mut world = world(32, 1);
    let id = world.add(0, 0, &tokens(0..9), 25, 1);
    for _ in 0..2 {
        world.step();
    }
    world.guess(3, 0);
    let plan = world.schedule();
    assert!(plan.chunks[0].save.is_some(), "9 tokens and 4 more go past 12");
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.cancel(id);
    assert_eq!(cached(&mut world, &tokens(0..20)), 0);
}

/// However long an answer is, it takes the places of two prefixes: of its last block, and of the one before until that is
/// computed.
#[test]
fn an_answer_leaves_one_snapshot() {
    for guesses in [0, 3] {
        let mut world = world(64, 5);
        let prompts = [tokens(0..9), tokens(20..33)];
        for prompt in &prompts {
            cached(&mut world, prompt);
        }
        let question = tokens(50..59);
        let id = world.add(0, 0, &question, 60, 1);
        while world.jobs.contains_key(&id) {
            world.guess(guesses, guesses);
            world.step();
        }
        for prompt in &prompts {
            let next = [&prompt[..], &[9, 9, 9]].concat();
            let whole = prompt.len() / 4 * 4;
            assert_eq!(cached(&mut world, &next), whole, "{guesses} guesses: the answer evicts nobody");
        }
        let next = [&question[..], &alone(id, &question, 60), &[9]].concat();
        assert_eq!(cached(&mut world, &next), 68, "{guesses} guesses: and is found itself");
    }
}

/// The last part of a prompt may be a single token; what it leaves is the prompt's nevertheless.
#[test]
fn a_prompt_that_ends_in_small_parts_is_found_again() {
    let mut world = world(64, 6);
    let busy = world.add(0, 0, &tokens(90..91), 40, 1);
    world.step();
    let id = world.add(0, 0, &tokens(0..17), 12, 1);
    let mut parts = Vec::new();
    while world.jobs.contains_key(&id) {
        let plan = world.schedule();
        parts.extend(plan.chunks.iter().filter(|c| c.id.0 == id).map(|c| (c.start, c.tokens.len())));
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
        world.finish_complete();
    }
    assert_eq!(parts[..3], [(0, 15), (15, 1), (16, 1)]);
    world.cancel(busy);
    assert_eq!(cached(&mut world, &[tokens(0..17), vec![9; 3]].concat()), 16);
}

#[test]
fn without_a_snapshot_nothing_is_found() {
    let mut none = world(32, 0);
    assert_eq!(cached(&mut none, &tokens(0..30)), 0);
    assert_eq!(cached(&mut none, &tokens(0..30)), 0);
    let mut one = world(32, 1);
    cached(&mut one, &tokens(0..30));
    assert_eq!(cached(&mut one, &tokens(0..30)), 28);
    cached(&mut one, &tokens(50..70));
    assert_eq!(cached(&mut one, &tokens(0..30)), 0, "its snapshot is another's");
}

#[test]
fn evicted_blocks_take_their_snapshots_along() {
    let mut world = world(8, 4);
    cached(&mut world, &tokens(0..30));
    cached(&mut world, &tokens(50..80));
    assert_eq!(cached(&mut world, &tokens(0..30)), 0);
    assert_eq!(cached(&mut world, &tokens(0..30)), 28);
}

/// A plan that restores is aborted: the sequence begins anew, since nobody knows what became of the snapshot.
#[test]
fn an_aborted_restoration_is_no_restoration() {
    let mut world = world(32, 2);
    cached(&mut world, &tokens(0..30));
    let id = world.add(0, 0, &tokens(0..30), 1, 1);
    let plan = world.schedule();
    assert!(plan.chunks[0].restore.is_some());
    world.abort(plan);
    let plan = world.schedule();
    assert_eq!((plan.chunks[0].start, plan.chunks[0].restore.is_some()), (28, true), "it is there still");
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.finish_complete();
    assert!(!world.jobs.contains_key(&id));
    assert_eq!(world.states.restored, 1);
}
