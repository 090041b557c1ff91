//! Several sequences of one prompt: computed once, shared, parted by copy on write, and ended separately.

use crate::world::{World, options};
use scheduler::SequenceId;

#[test]
fn siblings_share_the_prompt_and_part_by_copying_its_last_block() {
    let mut world = World::new(16, 4, options(4, 16, false));
    world.add(0, 0, &[1, 2, 1, 2, 1, 2], 4, 3);
    let plan = world.schedule();
    assert_eq!(plan.chunks.len(), 1, "the prompt is computed once");
    assert_eq!(plan.chunks[0].sample, [0, 1, 2].map(SequenceId));
    let blocks = plan.chunks[0].blocks.clone();
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    assert_eq!(world.allocator.num_free_blocks(), 14);
    let plan = world.schedule();
    assert_eq!(plan.chunks.iter().map(|c| c.id.0).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(plan.chunks.iter().all(|c| c.start == 6 && c.blocks[0] == blocks[0]));
    assert_eq!(plan.copies.len(), 2, "the last of three writes in place");
    assert!(plan.copies.iter().all(|copy| copy.from == blocks[1]));
    assert_eq!(world.allocator.num_free_blocks(), 12);
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.run_to_the_end();
    assert_eq!(world.allocator.num_free_blocks(), 16);
}

#[test]
fn a_prompt_of_whole_blocks_needs_no_copy() {
    let mut world = World::new(16, 4, options(4, 16, false));
    world.add(0, 0, &[1; 8], 4, 3);
    world.step();
    let plan = world.schedule();
    assert!(plan.copies.is_empty());
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.run_to_the_end();
}

#[test]
fn copies_of_an_aborted_plan_are_undone() {
    let mut world = World::new(16, 4, options(4, 16, true));
    world.add(0, 0, &[1; 6], 4, 3);
    world.step();
    let free = world.allocator.num_free_blocks();
    let plan = world.schedule();
    assert_eq!(plan.copies.len(), 2);
    world.abort(plan);
    assert_eq!(world.allocator.num_free_blocks(), free);
    world.run_to_the_end();
}

#[test]
fn a_copy_is_safe_from_whoever_ends_meanwhile() {
    // The middle one copies; everybody else leaves before the step runs, and a stranger takes what is free.
    let mut world = World::new(4, 4, options(4, 16, false));
    world.add(0, 0, &[1; 6], 4, 3);
    world.step();
    let plan = world.schedule();
    world.cancel(0);
    world.cancel(2);
    while world.take_outside(4) {}
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.outside.clear();
    world.run_to_the_end();
    assert_eq!(world.allocator.num_free_blocks(), 4);
}

#[test]
fn members_leave_and_pause_before_they_part() {
    for leaver in 0..3 {
        for late in [false, true] {
            let mut world = World::new(16, 4, options(4, 4, true));
            world.add(0, 0, &[1, 2, 0, 1, 2, 0, 1], 4, 3);
            let plan = world.schedule();
            if !late {
                world.cancel(leaver);
            }
            let sampled = world.run(&plan);
            world.commit(plan, &sampled);
            let plan = world.schedule();
            if late {
                world.cancel(leaver);
            }
            let sampled = world.run(&plan);
            world.commit(plan, &sampled);
            assert_eq!(world.scheduler.stats().running, 2);
            world.run_to_the_end();
        }
    }
    let mut world = World::new(16, 4, options(4, 4, true));
    world.add(0, 0, &[1, 2, 0, 1, 2, 0, 1], 4, 2);
    world.pause(0, true);
    world.step();
    world.pause(1, true);
    assert!(world.schedule().is_empty(), "everybody pauses");
    world.pause(1, false);
    while world.step() {}
    assert_eq!(world.jobs.len(), 1, "the paused one waits, the other is complete");
    assert_eq!(world.jobs[&0].generated().len(), 1);
    world.pause(0, false);
    world.run_to_the_end();
}

#[test]
fn everybody_leaving_ends_the_group() {
    let mut world = World::new(16, 4, options(4, 4, true));
    world.add(0, 0, &[1, 2, 0, 1, 2, 0, 1], 4, 3);
    world.step();
    for id in [1, 0, 2] {
        world.cancel(id);
    }
    let stats = world.scheduler.stats();
    assert_eq!((stats.running, stats.waiting, stats.num_used_blocks), (0, 0, 0));
}

#[test]
fn siblings_are_preempted_separately_and_end_with_the_same_texts() {
    for prefix_cache in [false, true] {
        // One sequence in the end needs 4 blocks.
        for blocks in 4..10 {
            let mut world = World::new(blocks, 4, options(4, 8, prefix_cache));
            world.add(0, 0, &[1, 2, 0, 1, 2, 0], 10, 4);
            world.run_to_the_end();
            assert!(blocks > 6 || world.preempted > 0, "{blocks} blocks suffice for four?");
            assert_eq!(world.allocator.num_free_blocks(), blocks);
        }
    }
}
