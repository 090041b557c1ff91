//! The prefix cache: what is found, what is not, and what has to make room first.

use crate::world::{World, options};
use scheduler::{BlockAllocator, PrefixMisses};

fn tokens(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

/// Runs one prompt to its end and returns how much of it was cached.
fn cached(world: &mut World, salt: u64, prompt: &[u32], max_tokens: usize) -> usize {
    let id = world.add(0, salt, prompt, max_tokens, 1);
    let mut cached = None;
    while world.jobs.contains_key(&id) {
        let plan = world.schedule();
        let chunk = plan.chunks.iter().find(|chunk| chunk.id.0 == id).unwrap();
        assert_eq!(*cached.get_or_insert(chunk.start), chunk.cached_tokens);
        let sampled = world.run(&plan);
        world.commit(plan, &sampled);
        world.finish_complete();
    }
    cached.unwrap()
}

#[test]
fn whole_blocks_are_found_and_one_token_is_left_to_compute() {
    let mut world = World::new(32, 4, options(2, 16, true));
    assert_eq!(cached(&mut world, 0, &tokens(0..10), 1), 0);
    assert_eq!(cached(&mut world, 0, &tokens(0..10), 1), 8);
    assert_eq!(cached(&mut world, 0, &tokens(0..9), 1), 8);
    assert_eq!(cached(&mut world, 0, &tokens(0..8), 1), 4, "the last token has to be computed");
    assert_eq!(cached(&mut world, 0, &tokens(0..7), 1), 4);
    let other_end: Vec<u32> = [tokens(0..6), vec![99; 8]].concat();
    assert_eq!(cached(&mut world, 0, &other_end, 1), 4);
    assert_eq!(
        cached(&mut world, 0, &tokens(4..12), 1),
        0,
        "the same block after another prefix is another block"
    );
    let stats = world.scheduler.stats();
    assert_eq!((stats.prefix_cache_queries, stats.prefix_cache_hits), (66, 28));
}

#[test]
fn generated_tokens_are_found_by_the_next_turn() {
    let mut world = World::new(32, 4, options(2, 16, true));
    let prompt = tokens(0..6);
    let id = world.add(0, 0, &prompt, 7, 1);
    world.run_to_the_end();
    let turn = [prompt.clone(), crate::world::alone(id, &prompt, 7), tokens(50..53)].concat();
    // 13 tokens, of which the last sampled one was never computed.
    assert_eq!(cached(&mut world, 0, &turn, 1), 12);
}

#[test]
fn a_salt_is_a_wall() {
    let mut world = World::new(32, 4, options(2, 16, true));
    assert_eq!(cached(&mut world, 1, &tokens(0..10), 1), 0);
    assert_eq!(cached(&mut world, 2, &tokens(0..10), 1), 0);
    assert_eq!(cached(&mut world, 1 << 32, &tokens(0..10), 1), 0);
    assert_eq!(cached(&mut world, 1, &tokens(0..10), 1), 8);
}

#[test]
fn without_a_prefix_cache_nothing_is_found_or_kept() {
    let mut world = World::new(32, 4, options(2, 16, false));
    assert_eq!(cached(&mut world, 0, &tokens(0..10), 1), 0);
    assert_eq!(cached(&mut world, 0, &tokens(0..10), 1), 0);
    let stats = world.scheduler.stats();
    assert_eq!((stats.num_cached_blocks, stats.prefix_cache_queries), (0, 0));
}

#[test]
fn what_a_running_sequence_computed_is_found_but_not_before_it_is_committed() {
    let mut world = World::new(32, 4, options(4, 8, true));
    let first = world.add(0, 0, &tokens(0..16), 4, 1);
    world.step();
    let second = world.add(0, 0, &tokens(0..16), 4, 1);
    let plan = world.schedule();
    assert_eq!((plan.chunks.len(), plan.chunks[0].id.0), (1, first));
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    let plan = world.schedule();
    assert_eq!((plan.chunks[1].id.0, plan.chunks[1].start), (second, 12));
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    world.run_to_the_end();
}

#[test]
fn equal_prompts_of_one_step_are_computed_twice_and_kept_once() {
    let mut world = World::new(32, 4, options(4, 64, true));
    for _ in 0..3 {
        world.add(0, 0, &tokens(0..10), 2, 1);
    }
    let plan = world.schedule();
    assert_eq!(plan.num_tokens(), 30);
    let sampled = world.run(&plan);
    world.commit(plan, &sampled);
    assert_eq!(world.scheduler.stats().num_used_blocks, 2 + 3);
    world.run_to_the_end();
    assert_eq!(world.allocator.num_cached_blocks(), 2);
}

#[test]
fn a_hash_that_always_collides_gives_no_wrong_content() {
    let weak: [fn(u64, &[u32]) -> u64; 2] = [|_, _| 0, |before, tokens| before ^ u64::from(tokens[0] & 1)];
    for hash in weak {
        let mut world = World::over(BlockAllocator::with_hash(64, 4, hash).unwrap(), options(2, 16, true));
        for prompt in [tokens(0..9), tokens(4..13), tokens(10..19), tokens(0..9)] {
            cached(&mut world, 0, &prompt, 4);
        }
        assert_eq!(cached(&mut world, 0, &tokens(10..19), 1), 8);
        assert_eq!(cached(&mut world, 1, &tokens(10..19), 1), 0);
        let crossed = [tokens(0..4), tokens(14..18), tokens(0..1)].concat();
        assert_eq!(cached(&mut world, 0, &crossed, 1), 4);
    }
}

#[test]
fn the_least_recently_used_makes_room_from_its_end() {
    let mut world = World::new(8, 4, options(2, 16, true));
    assert_eq!(cached(&mut world, 0, &tokens(0..13), 1), 0);
    assert_eq!(cached(&mut world, 0, &tokens(100..113), 1), 0);
    assert_eq!(world.allocator.num_cached_blocks(), 6);
    // The first prompt is the newest now; two empty blocks and the end of the second one make room for four.
    assert_eq!(cached(&mut world, 0, &tokens(0..13), 1), 12);
    assert_eq!(cached(&mut world, 0, &tokens(200..213), 1), 0);
    assert_eq!(world.allocator.num_free_blocks(), 8);
    assert_eq!(cached(&mut world, 0, &tokens(0..13), 1), 12);
    assert_eq!(cached(&mut world, 0, &tokens(100..113), 1), 4, "the first of its three blocks was left");
}

#[test]
fn cached_blocks_are_free_to_tables_outside() {
    let mut world = World::new(4, 4, options(2, 16, true));
    cached(&mut world, 0, &tokens(0..13), 1);
    assert_eq!((world.allocator.num_free_blocks(), world.allocator.num_cached_blocks()), (4, 3));
    assert!(world.take_outside(16));
    assert_eq!((world.allocator.num_free_blocks(), world.allocator.num_cached_blocks()), (0, 0));
    world.outside.clear();
    assert_eq!(cached(&mut world, 0, &tokens(0..13), 1), 0);
}

#[test]
fn a_miss_has_its_reason() {
    let mut world = World::new(8, 4, options(2, 32, true));
    let misses = |world: &World| world.scheduler.stats().prefix_misses;
    let mut expected = PrefixMisses::default();
    cached(&mut world, 1, &tokens(0..4), 1);
    expected.below_block += 1;
    assert_eq!(misses(&world), expected, "no whole block of it could ever be shared");
    cached(&mut world, 1, &tokens(0..13), 1);
    expected.cold += 1;
    assert_eq!(misses(&world), expected, "never seen, but for its first block");
    cached(&mut world, 1, &tokens(0..13), 1);
    assert_eq!(misses(&world), expected, "nothing missed");
    cached(&mut world, 2, &tokens(0..13), 1);
    expected.salt += 1;
    assert_eq!(misses(&world), expected, "known to another salt");
    cached(&mut world, 1, &[tokens(0..6), vec![99; 7]].concat(), 1);
    expected.below_block += 1;
    assert_eq!(misses(&world), expected, "half of the second block is shared");
    cached(&mut world, 1, &[tokens(0..5), vec![99; 7]].concat(), 1);
    expected.cold += 1;
    assert_eq!(misses(&world), expected, "one token of the second block is shared");
    assert!(world.take_outside(32));
    world.outside.clear();
    cached(&mut world, 2, &tokens(0..13), 1);
    expected.evicted += 1;
    assert_eq!(misses(&world), expected, "it had to make room");
    // So much passes that the index has forgotten them.
    for i in 1..30 {
        cached(&mut world, 3, &tokens(i * 100..i * 100 + 13), 1);
    }
    expected.cold += 29;
    cached(&mut world, 2, &tokens(0..13), 1);
    expected.cold += 1;
    assert_eq!(misses(&world), expected);
}

#[test]
fn a_preempted_sequence_is_looked_up_again_but_counted_once() {
    let mut world = World::new(5, 4, options(2, 16, true));
    for salt in [0, 1] {
        world.add(0, salt, &[1, 2, 1, 2, 1], 12, 1);
    }
    world.run_to_the_end();
    let stats = world.scheduler.stats();
    assert_eq!((stats.preemptions, stats.prefix_cache_queries, stats.prefix_cache_hits), (1, 10, 0));
}
