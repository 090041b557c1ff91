//! A hundred thousand requests without a model: nothing leaks, and a step costs what it schedules.
//!
//! Cost is counted in sequences that planning looks at, not in time; the times are printed for the curious.

use std::time::Instant;

use scheduler::{BlockAllocator, OwnerId, Scheduler, SchedulerOptions, SequenceId, SequenceSpec};

const REQUESTS: u64 = 100_000;
const FEWER: u64 = 10_000;
const MAX_NUM_SEQS: usize = 64;

/// Prompts of some systems, each a shared beginning and an end of its own.
fn spec(id: u64, long: usize) -> SequenceSpec {
    let random = crate::world::mix(0x5eed, id);
    let (system, shared, own) = (random % 50, 16 + random % 48, 1 + (random >> 8) % 40);
    let shared = (0..shared).map(|i| (system * 1000 + i) as u32);
    let prompt = shared.chain((0..own).map(|i| (id * 64 + i) as u32)).collect();
    SequenceSpec {
        id: SequenceId(id),
        owner: OwnerId((random >> 16) % 500),
        salt: system % 2,
        prompt,
        // Some answers are long.
        max_tokens: if id.is_multiple_of(20) { long } else { 1 + (random >> 32) as usize % 16 },
        siblings: Vec::new(),
    }
}

/// What a run cost.
#[derive(Debug)]
struct Cost {
    steps: u64,
    /// Of the dearest step: visits per sequence that may run.
    dearest: f64,
    hit_rate: f64,
    preemptions: u64,
}

/// Runs `requests` of which at most `waiting` are queued at a time, over `blocks` blocks.
fn run(requests: u64, waiting: usize, blocks: usize, long: usize) -> Cost {
    let allocator = BlockAllocator::new(blocks, 16).unwrap();
    let options = SchedulerOptions {
        max_num_seqs: MAX_NUM_SEQS,
        max_num_batched_tokens: 512,
        max_waiting: waiting,
        prefix_cache: true,
    };
    let mut scheduler = Scheduler::new(allocator, options).unwrap();
    let (mut next, mut ended, mut visits, mut dearest) = (0, 0, 0, 0.0f64);
    let mut left: Vec<usize> = Vec::new();
    let start = Instant::now();
    while ended < requests {
        while next < requests {
            let spec = spec(next, long);
            let max_tokens = spec.max_tokens;
            if scheduler.add(spec).is_err() {
                break;
            }
            left.push(max_tokens);
            next += 1;
        }
        let plan = scheduler.schedule();
        assert!(!plan.is_empty(), "{:?}", scheduler.stats());
        let sampled: Vec<_> = plan.chunks.iter().flat_map(|c| &c.sample).map(|&id| (id, 1)).collect();
        let chunks = plan.chunks.len();
        scheduler.commit(plan, &sampled);
        for (id, _) in sampled {
            left[id.0 as usize] -= 1;
            // Every tenth leaves early.
            if left[id.0 as usize] == 0 || id.0.is_multiple_of(10) && left[id.0 as usize] == 5 {
                assert!(scheduler.cancel(id));
                ended += 1;
            }
        }
        let so_far = scheduler.stats().visits;
        dearest = dearest.max((so_far - visits) as f64 / (MAX_NUM_SEQS + chunks) as f64);
        visits = so_far;
    }
    scheduler.check_integrity().unwrap();
    let stats = scheduler.stats();
    assert_eq!((stats.running, stats.waiting, stats.num_used_blocks), (0, 0, 0));
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{requests} requests, {waiting} waiting, {blocks} blocks: {} steps, {:.0} steps/s, {:.0} tokens/s",
        stats.steps,
        stats.steps as f64 / seconds,
        stats.scheduled_tokens as f64 / seconds
    );
    Cost {
        steps: stats.steps,
        dearest,
        hit_rate: stats.prefix_cache_hits as f64 / stats.prefix_cache_queries as f64,
        preemptions: stats.preemptions,
    }
}

#[test]
fn a_hundred_thousand_requests_and_the_cost_of_a_step_stays_flat() {
    let few = run(FEWER, 100, 4096, 40);
    let all = run(REQUESTS, REQUESTS as usize, 4096, 40);
    let tight = run(FEWER, 1000, 48, 300);
    println!("{few:?}\n{all:?}\n{tight:?}");
    for cost in [&few, &all, &tight] {
        assert!(cost.dearest < 4.0, "a step looked at {} sequences for each that may run", cost.dearest);
    }
    assert!(few.hit_rate > 0.3, "prefixes are shared: {few:?}");
    assert!(few.preemptions == 0 && tight.preemptions > 0);
    let per_request = |cost: &Cost, requests| cost.steps as f64 / requests as f64;
    let (few, all) = (per_request(&few, FEWER), per_request(&all, REQUESTS));
    assert!(all < few * 1.1, "a long queue makes steps emptier: {all} and {few} per request");
}
