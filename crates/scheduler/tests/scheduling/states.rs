//! [`States`]: what sequences keep besides their blocks, for a [`World`](crate::world::World) whose model does: the tokens
//! that they have seen, which must begin with those before every chunk; and it goes back no further than what was guessed.

use std::collections::HashMap;
use std::ops::Range;

use scheduler::{Chunk, Plan};

#[derive(Default)]
pub(crate) struct States {
    slots: HashMap<u64, Vec<u32>>,
    /// Of siblings that have not parted, by the first of them, alive or not.
    shared: HashMap<u64, Vec<u32>>,
    firsts: HashMap<u64, u64>,
    /// What was seen, and how much of it was guessed. Empty for a model without state.
    snapshots: Vec<(Vec<u32>, usize)>,
    pub(crate) restored: usize,
}

/// What no sequence has seen.
const POISON: u32 = 0xdead;

impl States {
    pub(crate) fn new(snapshots: usize) -> Self {
        Self { snapshots: vec![(vec![POISON], 0); snapshots], ..Self::default() }
    }

    pub(crate) fn forget(&mut self, id: u64) {
        self.slots.remove(&id);
    }

    /// `ids` are siblings: before they part the first that lives is computed for all.
    pub(crate) fn add(&mut self, ids: Range<u64>) {
        let first = ids.start;
        self.firsts.extend(ids.map(|id| (id, first)));
    }

    /// What a device would do with `plan`; `tokens` are those of a chunk's sequence.
    pub(crate) fn run<'t>(&mut self, plan: &Plan, block_size: usize, tokens: impl Fn(&Chunk) -> &'t [u32]) {
        if self.snapshots.is_empty() {
            assert!(plan.chunks.iter().all(|chunk| chunk.restore.is_none() && chunk.save.is_none()));
            return;
        }
        for chunk in &plan.chunks {
            if let Some(snapshot) = chunk.restore {
                let (mut state, guesses) = self.snapshots[snapshot as usize].clone();
                assert!(state.len() <= chunk.start + guesses, "{:?} goes on from another text", chunk.id);
                state.truncate(chunk.start);
                assert_eq!(state, tokens(chunk)[..chunk.start], "{:?} goes on from another state", chunk.id);
                self.slots.insert(chunk.id.0, state);
                self.restored += 1;
            }
        }
        for chunk in &plan.chunks {
            let first = self.firsts[&chunk.id.0];
            let shared = self.shared.entry(first).or_default();
            let state = self.slots.entry(chunk.id.0).or_insert_with(|| shared.clone());
            // Nothing is cleared for those who begin, and a chunk that failed is computed again.
            state.truncate(chunk.start);
            assert_eq!(*state, tokens(chunk)[..chunk.start], "{:?} has another past", chunk.id);
            state.extend(&chunk.tokens);
            let state = state.clone();
            shared.clone_from(&state);
            let siblings = chunk.sample.iter().filter(|id| **id != chunk.id);
            self.slots.extend(siblings.map(|id| (id.0, state.clone())));
        }
        for chunk in &plan.chunks {
            if let Some(snapshot) = chunk.save {
                let end = chunk.start + chunk.tokens.len();
                assert!(end % block_size <= chunk.guesses, "the state at no block's end");
                self.snapshots[snapshot as usize] = (self.slots[&chunk.id.0].clone(), chunk.guesses);
            }
        }
    }

    /// The step failed half way.
    pub(crate) fn abort(&mut self, plan: &Plan) {
        for snapshot in plan.chunks.iter().filter_map(|chunk| chunk.save) {
            self.snapshots[snapshot as usize] = (vec![POISON], 0);
        }
    }
}
