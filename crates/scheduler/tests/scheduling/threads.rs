//! One pool, several users at once: tables on other threads and a scheduler never hold the same block.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use scheduler::{BlockAllocator, OwnerId, Plan, Scheduler, SequenceId, SequenceSpec};

use crate::world::{mix, options};

const BLOCKS: usize = 48;

/// Who writes to each block right now; 0 is nobody.
type Writers = Arc<Vec<AtomicU32>>;

fn enter(writers: &Writers, block: u32, who: u32) {
    let before = writers[block as usize].swap(who, Ordering::SeqCst);
    assert_eq!(before, 0, "block {block} is written by {before} and {who}");
}

fn leave(writers: &Writers, block: u32, who: u32) {
    let before = writers[block as usize].swap(0, Ordering::SeqCst);
    assert_eq!(before, who, "block {block} changed hands");
}

/// Takes tables of random sizes and gives them back.
fn take_and_give(allocator: &BlockAllocator, writers: &Writers, who: u32) {
    for i in 0..3000 {
        let mut table = allocator.table();
        if table.grow_to(1 + mix(u64::from(who), i) as usize % 40).is_ok() {
            table.blocks().iter().for_each(|&block| enter(writers, block, who));
            if i % 8 == 0 {
                std::thread::yield_now();
            }
            table.blocks().iter().for_each(|&block| leave(writers, block, who));
        }
    }
}

/// The blocks that a plan writes to, each once.
fn written(plan: &Plan) -> Vec<u32> {
    let rows = |c: &scheduler::Chunk| c.blocks[c.start / 4..(c.start + c.tokens.len()).div_ceil(4)].to_vec();
    let mut blocks: Vec<u32> = plan.chunks.iter().flat_map(rows).collect();
    blocks.extend(plan.copies.iter().map(|copy| copy.to));
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

fn schedule(scheduler: &mut Scheduler, writers: &Writers, who: u32) {
    let mut left = std::collections::HashMap::new();
    for step in 0..2000u64 {
        let id = SequenceId(step * 3);
        let siblings = vec![SequenceId(step * 3 + 1), SequenceId(step * 3 + 2)];
        let prompt = (0..1 + mix(7, step) as u32 % 20).collect();
        let spec = SequenceSpec { id, owner: OwnerId(step % 3), salt: 0, prompt, max_tokens: 5, siblings };
        if scheduler.add(spec).is_ok() {
            left.extend((0..3).map(|i| (SequenceId(id.0 + i), 5)));
        }
        let plan = scheduler.schedule();
        let blocks = written(&plan);
        blocks.iter().for_each(|&block| enter(writers, block, who));
        let sampled: Vec<_> = plan.chunks.iter().flat_map(|c| &c.sample).map(|&id| (id, 1)).collect();
        // Some leave while the plan is under way.
        if step % 5 == 0
            && let Some((id, _)) = sampled.first()
        {
            left.remove(id);
            scheduler.cancel(*id);
        }
        blocks.iter().for_each(|&block| leave(writers, block, who));
        scheduler.commit(plan, &sampled);
        for (id, _) in sampled {
            let ended = left.get_mut(&id).is_some_and(|left| {
                *left -= 1;
                *left == 0
            });
            if ended {
                scheduler.finish(id);
            }
        }
    }
}

#[test]
fn a_block_is_never_in_two_hands() {
    let allocator = BlockAllocator::new(BLOCKS, 4).unwrap();
    let writers: Writers = Arc::new((0..BLOCKS).map(|_| AtomicU32::new(0)).collect());
    let mut scheduler = Scheduler::new(allocator.clone(), options(6, 24, true)).unwrap();
    std::thread::scope(|scope| {
        for who in 1..=2 {
            let (allocator, writers) = (&allocator, &writers);
            scope.spawn(move || take_and_give(allocator, writers, who));
        }
        schedule(&mut scheduler, &writers, 9);
    });
    scheduler.check_integrity().unwrap();
    drop(scheduler);
    assert_eq!(allocator.num_free_blocks(), BLOCKS);
    allocator.check_integrity().unwrap();
}
