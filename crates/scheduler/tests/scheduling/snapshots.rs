//! Sequences that keep state: a prefix is found where a snapshot of its state is, and snapshots are where they are of use.

use scheduler::BlockAllocator;

use crate::world::{World, options};

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
