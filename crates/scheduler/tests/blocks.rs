//! Block accounting under random histories: no block is ever lost, shared or handed out beyond the pool.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;

use proptest::prelude::*;
use scheduler::{BlockAllocator, BlockTable, SchedulerError};

#[test]
fn a_table_grows_by_tokens_and_returns_on_drop() {
    let allocator = BlockAllocator::new(4, 16).unwrap();
    let mut table = allocator.table();
    assert_eq!(table.blocks(), [] as [u32; 0]);
    table.grow_to(1).unwrap();
    assert_eq!(table.blocks(), [0]);
    table.grow_to(16).unwrap();
    assert_eq!(table.blocks(), [0]);
    table.grow_to(17).unwrap();
    assert_eq!((table.blocks(), table.num_tokens()), ([0, 1].as_slice(), 17));
    assert_eq!(allocator.num_free_blocks(), 2);
    drop(table);
    assert_eq!(allocator.num_free_blocks(), 4);
}

#[test]
fn an_empty_pool_is_a_typed_error_and_takes_nothing() {
    let allocator = BlockAllocator::new(3, 4).unwrap();
    let (mut first, mut second) = (allocator.table(), allocator.table());
    first.grow_to(8).unwrap();
    let error = second.grow_to(9).unwrap_err();
    assert_eq!(error, SchedulerError::OutOfBlocks { needed: 3, free: 1, total: 3 });
    assert_eq!((second.blocks().len(), second.num_tokens(), allocator.num_free_blocks()), (0, 0, 1));
    second.grow_to(4).unwrap();
    assert!(second.grow_to(5).is_err());
    assert_eq!((second.blocks().len(), second.num_tokens()), (1, 4));
}

#[test]
fn truncation_returns_only_the_tail() {
    let allocator = BlockAllocator::new(8, 4).unwrap();
    let mut table = allocator.table();
    table.grow_to(20).unwrap();
    let kept = table.blocks()[..2].to_vec();
    table.truncate(6);
    assert_eq!((table.blocks(), table.num_tokens()), (kept.as_slice(), 6));
    table.truncate(9);
    assert_eq!(table.num_tokens(), 6, "truncation never grows");
    table.truncate(0);
    assert_eq!(allocator.num_free_blocks(), 8);
}

#[test]
fn a_panicking_holder_returns_its_blocks() {
    let allocator = BlockAllocator::new(2, 1).unwrap();
    let clone = allocator.clone();
    let outcome = std::thread::spawn(move || {
        let mut table = clone.table();
        table.grow_to(2).unwrap();
        panic!("a generation dies");
    })
    .join();
    assert!(outcome.is_err());
    assert_eq!(allocator.num_free_blocks(), 2);
    allocator.check_integrity().unwrap();
}

/// What may happen to the tables of an engine.
#[derive(Debug, Clone)]
enum Event {
    Start,
    Grow(usize, usize),
    Truncate(usize, usize),
    End(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start),
        (0usize..8, 0usize..70).prop_map(|(table, tokens)| Event::Grow(table, tokens)),
        (0usize..8, 0usize..70).prop_map(|(table, tokens)| Event::Truncate(table, tokens)),
        (0usize..8).prop_map(Event::End),
    ]
}

proptest! {
    #[test]
    fn blocks_are_conserved(blocks in 1usize..24, size in 1usize..9, events in prop::collection::vec(event(), 0..60)) {
        let allocator = BlockAllocator::new(blocks, size).unwrap();
        let mut tables: Vec<BlockTable> = Vec::new();
        for event in events {
            let count = tables.len();
            match event {
                Event::Start => tables.push(allocator.table()),
                Event::Grow(i, tokens) if count > 0 => {
                    let table = &mut tables[i % count];
                    let (before, free) = (table.blocks().to_vec(), allocator.num_free_blocks());
                    match table.grow_to(tokens) {
                        Ok(()) => prop_assert!(table.blocks().len() * size >= tokens.max(table.num_tokens())),
                        Err(SchedulerError::OutOfBlocks { needed, .. }) => {
                            prop_assert!(needed > free);
                            prop_assert_eq!(table.blocks(), before.as_slice());
                        }
                        Err(other) => return Err(TestCaseError::fail(other.to_string())),
                    }
                    prop_assert!(table.blocks().starts_with(&before), "growth moves no block");
                }
                Event::Truncate(i, tokens) if count > 0 => tables[i % count].truncate(tokens),
                Event::End(i) if count > 0 => drop(tables.swap_remove(i % count)),
                _ => {}
            }
            allocator.check_integrity().unwrap();
            let held: Vec<u32> = tables.iter().flat_map(|t| t.blocks().iter().copied()).collect();
            let distinct: HashSet<u32> = held.iter().copied().collect();
            prop_assert_eq!(distinct.len(), held.len(), "a block has one holder");
            prop_assert_eq!(held.len() + allocator.num_free_blocks(), blocks);
            for table in &tables {
                prop_assert_eq!(table.blocks().len(), table.num_tokens().div_ceil(size));
            }
        }
        drop(tables);
        prop_assert_eq!(allocator.num_free_blocks(), blocks);
    }
}
