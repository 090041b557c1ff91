//! Continuous batching: what a plan holds, who goes first, and what happens to sequences that end, pause or fail.

use crate::world::{World, alone, options};
use scheduler::{SchedulerError, SequenceId, SequenceSpec};

/// Start, number of tokens and samplers of each chunk.
fn shape(plan: &scheduler::Plan) -> Vec<(u64, usize, usize, usize)> {
    plan.chunks.iter().map(|c| (c.id.0, c.start, c.tokens.len(), c.sample.len())).collect()
}

#[test]
fn a_prompt_is_prefilled_in_chunks_beside_decodes() {
    let mut world = World::new(64, 4, options(4, 8, false));
    world.add(0, 0, &[1; 3], 10, 1);
    let plan = world.schedule();
    assert_eq!(shape(&plan), [(0, 0, 3, 1)]);
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.add(0, 0, &[2; 12], 2, 1);
    let mut shapes = Vec::new();
    for _ in 0..3 {
        let plan = world.schedule();
        shapes.push(shape(&plan));
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
    }
    let expected = [
        vec![(0, 3, 1, 1), (1, 0, 7, 0)],
        vec![(0, 4, 1, 1), (1, 7, 5, 1)],
        vec![(0, 5, 1, 1), (1, 12, 1, 1)],
    ];
    assert_eq!(shapes, expected);
    world.run_to_the_end();
}

#[test]
fn the_last_token_is_not_computed_and_one_of_one_needs_one_step() {
    let mut world = World::new(2, 4, options(2, 8, false));
    world.add(0, 0, &[1; 8], 1, 1);
    assert_eq!(world.run_to_the_end(), 1);
    assert_eq!(world.allocator.num_free_blocks(), 2);
}

#[test]
fn a_sequence_that_is_not_finished_is_not_scheduled_past_its_maximum() {
    let mut world = World::new(2, 4, options(2, 8, false));
    world.add(0, 0, &[1; 7], 2, 1);
    for _ in 0..2 {
        let plan = world.schedule();
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
    }
    let plan = world.schedule();
    assert!(plan.is_empty() && !plan.short_of_blocks);
    // Nobody ends it, yet it is in nobody's way.
    let other = world.add(0, 0, &[2; 8], 1, 1);
    let plan = world.schedule();
    assert_eq!(plan.preempted, [SequenceId(0)]);
    assert_eq!(plan.chunks[0].id.0, other);
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    assert!(world.schedule().is_empty(), "it is not computed again");
    world.finish_complete();
    assert!(world.jobs.is_empty());
}

#[test]
fn prefill_only_computes_every_token_and_samples_nothing() {
    let mut world = World::new(16, 4, options(2, 8, true));
    world.add(0, 0, &[1; 10], 1, 1);
    world.run_to_the_end();
    world.add(0, 0, &[1; 10], 0, 1);
    let plan = world.schedule();
    assert_eq!(shape(&plan), [(1, 0, 8, 0)], "nothing comes from the prefix cache");
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    let plan = world.schedule();
    assert_eq!(shape(&plan), [(1, 8, 2, 0)]);
    let sampled = world.run(&plan);
    assert!(sampled.is_empty());
    world.commit(plan, &sampled);
    assert!(world.schedule().is_empty());
    world.finish_complete();
    assert_eq!(world.scheduler.stats().prefix_cache_queries, 10, "only the first was looked up");
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let mut world = World::new(4, 4, scheduler::SchedulerOptions { max_waiting: 2, ..options(3, 8, true) });
    let refused =
        |world: &mut World, prompt: &[u32], max, n| world.try_add(0, 0, prompt, max, n).unwrap_err();
    assert_eq!(refused(&mut world, &[], 1, 1), SchedulerError::EmptyPrompt { id: 0 });
    assert_eq!(refused(&mut world, &[1; 17], 1, 1), SchedulerError::TooLong { needed: 5, total: 4 });
    assert_eq!(refused(&mut world, &[1; 10], 8, 1), SchedulerError::TooLong { needed: 5, total: 4 });
    let huge = refused(&mut world, &[1; 10], usize::MAX, 1);
    assert!(matches!(huge, SchedulerError::TooLong { total: 4, .. }), "{huge}");
    assert_eq!(refused(&mut world, &[1], 1, 4), SchedulerError::TooManySiblings { found: 4, max: 3 });
    assert_eq!(refused(&mut world, &[1], 0, 2), SchedulerError::TooManySiblings { found: 2, max: 1 });
    world.add(0, 0, &[1; 10], 7, 2);
    let spec = |id, siblings: &[u64]| SequenceSpec {
        id: SequenceId(id),
        owner: scheduler::OwnerId(0),
        salt: 0,
        prompt: vec![1],
        max_tokens: 1,
        siblings: siblings.iter().copied().map(SequenceId).collect(),
    };
    for (spec, id) in [(spec(1, &[]), 1), (spec(7, &[0]), 0), (spec(7, &[7]), 7), (spec(7, &[8, 8]), 8)] {
        assert_eq!(world.scheduler.add(spec).unwrap_err(), SchedulerError::Duplicate { id });
    }
    world.add(0, 0, &[1], 1, 1);
    assert_eq!(refused(&mut world, &[1], 1, 1), SchedulerError::QueueFull { waiting: 2 });
    world.run_to_the_end();
    for options in [options(0, 8, true), options(9, 8, true)] {
        assert!(scheduler::Scheduler::new(world.allocator.clone(), options).is_err());
    }
}

#[test]
fn the_oldest_keeps_its_blocks_and_the_newest_starts_over() {
    // Each needs four blocks in the end; the pool has five.
    let mut world = World::new(5, 4, options(2, 16, false));
    for _ in 0..2 {
        world.add(0, 0, &[1, 2, 1, 2, 1], 12, 1);
    }
    let mut preempted = Vec::new();
    while !world.jobs.is_empty() {
        let plan = world.schedule();
        assert!(plan.chunks.first().is_some_and(|chunk| chunk.id.0 == *world.jobs.keys().next().unwrap()));
        preempted.extend(plan.preempted.clone());
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
        world.finish_complete();
    }
    assert_eq!(preempted, [SequenceId(1)]);
    assert_eq!(world.scheduler.stats().preemptions, 1);
}

#[test]
fn admission_leaves_a_block_to_each_running_sequence() {
    let mut world = World::new(3, 4, options(4, 16, false));
    world.add(0, 0, &[1; 3], 3, 1);
    world.step();
    world.add(0, 0, &[2; 8], 4, 1);
    let plan = world.schedule();
    assert_eq!(shape(&plan), [(0, 3, 1, 1)], "the second would take the block that the first needs next");
    assert!(plan.short_of_blocks);
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.run_to_the_end();
    assert_eq!(world.preempted, 0);
}

#[test]
fn blocks_held_outside_make_an_empty_plan_that_says_so() {
    let mut world = World::new(3, 4, options(2, 8, true));
    world.add(0, 0, &[1; 4], 6, 1);
    assert!(world.take_outside(8));
    world.step();
    for _ in 0..2 {
        let plan = world.schedule();
        assert!(plan.is_empty() && plan.short_of_blocks && plan.preempted.is_empty());
    }
    assert_eq!(world.scheduler.stats().running, 1, "it keeps what it has");
    world.outside.clear();
    world.run_to_the_end();
    // The same before it runs.
    assert!(world.take_outside(12));
    world.add(0, 0, &[2; 4], 6, 1);
    let plan = world.schedule();
    assert!(plan.is_empty() && plan.short_of_blocks);
    world.outside.clear();
    world.run_to_the_end();
}

#[test]
fn a_paused_sequence_is_left_alone_until_its_blocks_are_wanted() {
    let mut world = World::new(4, 4, options(1, 8, false));
    let slow = world.add(0, 0, &[1; 6], 8, 1);
    world.step();
    world.pause(slow, true);
    assert!(world.schedule().is_empty());
    assert_eq!(world.scheduler.stats().running, 1);
    let other = world.add(1, 0, &[2; 6], 2, 1);
    let plan = world.schedule();
    assert_eq!((plan.preempted.as_slice(), plan.chunks[0].id.0), ([SequenceId(slow)].as_slice(), other));
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.step();
    assert!(!world.step(), "it waits for its reader");
    assert_eq!(world.scheduler.stats().waiting, 1);
    world.pause(slow, false);
    world.run_to_the_end();
}

#[test]
fn a_cancelled_sequence_gives_its_blocks_back_at_once_unless_a_plan_uses_them() {
    let mut world = World::new(4, 4, options(2, 8, false));
    let id = world.add(0, 0, &[1; 8], 8, 1);
    world.step();
    world.cancel(id);
    assert_eq!(world.allocator.num_free_blocks(), 4);
    let id = world.add(0, 0, &[1; 8], 8, 1);
    let plan = world.schedule();
    world.cancel(id);
    assert_eq!(world.allocator.num_free_blocks(), 2, "the step still writes to them");
    assert!(!world.take_outside(12));
    assert!(world.take_outside(8));
    // The device does not know about the end: it writes to the blocks of the plan.
    world.check_outside();
    world.scheduler.commit(plan, &[(SequenceId(id), 0)]);
    assert_eq!(world.allocator.num_free_blocks(), 2);
    world.outside.clear();
    assert_eq!(world.allocator.num_free_blocks(), 4);
    assert!(!world.scheduler.cancel(SequenceId(id)));
}

#[test]
fn an_aborted_or_lost_plan_is_made_again() {
    let mut world = World::new(16, 4, options(2, 8, true));
    world.add(0, 0, &[1; 6], 3, 1);
    let plan = world.schedule();
    let first = shape(&plan);
    world.abort(plan);
    assert_eq!(world.allocator.num_cached_blocks(), 0, "nothing was computed");
    let lost = world.schedule();
    assert_eq!(shape(&lost), first);
    let plan = world.schedule();
    assert_eq!(shape(&plan), first);
    world.scheduler.commit(lost, &[(SequenceId(0), 9)]);
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.run_to_the_end();
}

#[test]
fn who_gets_no_token_computes_its_last_row_again() {
    for (prompt, prefix_cache) in [(6, true), (8, true), (8, false)] {
        let mut world = World::new(16, 4, options(4, 16, prefix_cache));
        let first = world.add(0, 0, &vec![1; prompt], 3, 3);
        let plan = world.schedule();
        let mut sampled = world.run(&plan);
        sampled.retain(|(id, _)| id.0 != first + 1);
        world.commit(plan, &sampled);
        let plan = world.schedule();
        let again = plan.chunks.iter().find(|chunk| chunk.id.0 == first + 1).unwrap();
        assert_eq!((again.start, again.sample.len()), (prompt - 1, 1));
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
        world.run_to_the_end();
    }
}

#[test]
fn a_chunk_that_nobody_samples_from_is_due_again_and_not_found() {
    for n in [1, 2] {
        let mut world = World::new(16, 4, options(4, 16, true));
        world.add(0, 0, &[1; 9], 3, n);
        let plan = world.schedule();
        let first = shape(&plan);
        // The device wrote nothing.
        world.commit(plan, &[]);
        assert_eq!(shape(&world.schedule()), first);
        world.add(0, 0, &[1; 9], 3, 1);
        let plan = world.schedule();
        assert_eq!(plan.chunks.last().map(|chunk| chunk.start), Some(0));
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
        world.run_to_the_end();
    }
}

#[test]
fn who_fails_alone_is_cancelled_first_and_leaves_nothing_to_find() {
    let mut world = World::new(16, 4, options(4, 8, true));
    let guilty = world.add(0, 0, &[1; 20], 3, 1);
    let plan = world.schedule();
    world.cancel(guilty);
    world.commit(plan, &[]);
    assert_eq!(world.allocator.num_cached_blocks(), 0);
}

#[test]
fn the_pool_of_one_block_serves_whatever_fits_it() {
    let mut world = World::new(1, 4, options(4, 16, true));
    for n in [1, 3] {
        world.add(0, 0, &[1, 2], 3, n);
    }
    world.add(1, 0, &[1, 2, 1, 2], 1, 2);
    world.run_to_the_end();
    let id = world.add(0, 0, &[1, 2, 1, 2], 1, 1);
    let plan = world.schedule();
    world.run(&plan);
    world.commit(plan, &[]);
    world.run_to_the_end();
    assert_eq!(alone(id, &[1], 2).len(), 2);
    assert_eq!(world.allocator.num_free_blocks(), 1);
}

#[test]
fn a_name_may_be_used_again_while_its_last_plan_is_under_way() {
    let mut world = World::new(16, 4, options(2, 16, true));
    let spec = |token| SequenceSpec {
        id: SequenceId(7),
        owner: scheduler::OwnerId(0),
        salt: 0,
        prompt: vec![token; 6],
        max_tokens: 3,
        siblings: vec![SequenceId(8)],
    };
    world.scheduler.add(spec(1)).unwrap();
    let plan = world.scheduler.schedule();
    assert!(world.scheduler.cancel(SequenceId(7)) && world.scheduler.cancel(SequenceId(8)));
    world.scheduler.add(spec(2)).unwrap();
    world.scheduler.commit(plan, &[(SequenceId(7), 9), (SequenceId(8), 9)]);
    let plan = world.scheduler.schedule();
    assert_eq!(plan.chunks[0].tokens, [2; 6], "it has sampled nothing yet");
    world.scheduler.commit(plan, &[(SequenceId(7), 5), (SequenceId(8), 6)]);
    let next: Vec<_> = world.scheduler.schedule().chunks.into_iter().map(|c| c.tokens).collect();
    assert_eq!(next, [[5], [6]]);
    world.scheduler.check_integrity().unwrap();
}

/// Right guesses save steps, wrong ones cost none, and nobody gets another text.
#[test]
fn guesses_save_steps() {
    let steps = |count, right| {
        let mut world = World::new(40, 4, options(4, 16, true));
        for (owner, prompt) in [[0, 1, 2, 1, 0], [2, 2, 1, 0, 1]].iter().enumerate() {
            world.add(owner as u64, 0, prompt, 13, 1);
        }
        let mut steps = 0;
        loop {
            world.guess(count, right);
            if !world.step() {
                break (steps, world.right_guesses);
            }
            steps += 1;
        }
    };
    assert_eq!(steps(0, 0), (13, 0));
    assert_eq!(steps(3, 0), (13, 0));
    // One token after the prompt, then three and one more at a time; the last step needs no guess for its token.
    assert_eq!(steps(3, 3), (4, 18));
    assert_eq!(steps(3, 1), (7, 12));
}

/// A sequence that guesses takes neither a turn nor a block from one that does not.
#[test]
fn guesses_take_nothing_from_others() {
    let mut world = World::new(4, 2, options(2, 2, false));
    world.add(0, 0, &[0], 4, 1);
    world.add(1, 0, &[1], 4, 1);
    while !world.jobs.is_empty() {
        world.guess(3, 3);
        let plan = world.schedule();
        assert!(plan.chunks.iter().all(|chunk| chunk.guesses == 0) || plan.chunks.len() == 1);
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
        world.finish_complete();
    }
    assert_eq!(world.preempted, 0);

    // The older one could take the block that the other will need in the same step.
    let mut world = World::new(5, 2, options(2, 16, false));
    world.add(0, 0, &[0], 9, 1);
    world.add(1, 0, &[1], 4, 1);
    while world.jobs.len() == 2 {
        world.guess(4, 0);
        let plan = world.schedule();
        assert_eq!(plan.chunks.len(), 2);
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
        world.finish_complete();
    }
    assert_eq!(world.preempted, 0);
}
