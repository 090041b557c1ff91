//! [`Snapshots`]: which known blocks have a copy of the state that a sequence has at their end.
//!
//! A model that keeps state per sequence can go on behind a known block only with that state. A plan borrows a snapshot
//! to have a sequence's state copied into it; when the plan is committed, the block that ends there keeps it, until the
//! block is forgotten or the snapshot is the one that has not been of use for longest.

use std::collections::HashMap;

/// What a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Empty,
    /// A plan under way writes it.
    Lent,
    Kept {
        block: u32,
        used: u64,
    },
}

/// A snapshot that was kept, as it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    block: u32,
    used: u64,
}

/// A fixed number of snapshots.
#[derive(Debug)]
pub(crate) struct Snapshots {
    places: Vec<Place>,
    of_block: HashMap<u32, u32>,
    /// Counts uses.
    now: u64,
}

impl Snapshots {
    pub(crate) fn new(count: usize) -> Self {
        Self { places: vec![Place::Empty; count], of_block: HashMap::new(), now: 0 }
    }

    /// How many of `blocks` a sequence can begin with, and the state to go on from: up to the last that has one.
    pub(crate) fn deepest(&mut self, blocks: &[u32]) -> Option<(usize, u32)> {
        let found = blocks.iter().enumerate().rev();
        let (depth, snapshot) = found.into_iter().find_map(|(i, b)| Some((i + 1, *self.of_block.get(b)?)))?;
        self.now += 1;
        self.places[snapshot as usize] = Place::Kept { block: blocks[depth - 1], used: self.now };
        Some((depth, snapshot))
    }

    /// A snapshot to write to; `None` if plans write to all of them.
    pub(crate) fn lend(&mut self) -> Option<u32> {
        let age = |place: &Place| match *place {
            Place::Empty => Some(0),
            Place::Lent => None,
            Place::Kept { used, .. } => Some(used),
        };
        let ages = self.places.iter().enumerate().filter_map(|(i, place)| Some((age(place)?, i)));
        let (_, at) = ages.min()?;
        if let Place::Kept { block, .. } = std::mem::replace(&mut self.places[at], Place::Lent) {
            self.of_block.remove(&block);
        }
        Some(at as u32)
    }

    /// A snapshot that was lent holds the state at the end of `block` now. `None` if the block has one already.
    pub(crate) fn keep(&mut self, snapshot: u32, block: u32) -> Option<Kept> {
        if self.of_block.contains_key(&block) {
            self.give(snapshot);
            return None;
        }
        self.now += 1;
        self.of_block.insert(block, snapshot);
        self.places[snapshot as usize] = Place::Kept { block, used: self.now };
        Some(Kept { block, used: self.now })
    }

    /// Who had a snapshot kept has a better one. Nothing happens if it was of use to somebody since, or is gone.
    pub(crate) fn outgrow(&mut self, Kept { block, used }: Kept) {
        let place = self.of_block.get(&block).map(|snapshot| self.places[*snapshot as usize]);
        if place == Some(Place::Kept { block, used }) {
            self.forget(block);
        }
    }

    /// A snapshot that was lent has not been written.
    pub(crate) fn give(&mut self, snapshot: u32) {
        debug_assert_eq!(self.places[snapshot as usize], Place::Lent, "snapshot {snapshot} was not lent");
        self.places[snapshot as usize] = Place::Empty;
    }

    /// `block` is about to hold something else.
    pub(crate) fn forget(&mut self, block: u32) {
        if let Some(snapshot) = self.of_block.remove(&block) {
            self.places[snapshot as usize] = Place::Empty;
        }
    }

    /// A block whose snapshot is not sound: kept for a block that is not known, or not listed under it.
    pub(crate) fn unsound(&self, is_known: impl Fn(u32) -> bool) -> Option<u32> {
        let kept = |(snapshot, place): (u32, &Place)| match *place {
            Place::Kept { block, .. } => Some((snapshot, block)),
            Place::Empty | Place::Lent => None,
        };
        let mut kept = (0u32..).zip(&self.places).filter_map(kept).peekable();
        if kept.peek().is_none()
            && let Some(&block) = self.of_block.keys().next()
        {
            return Some(block);
        }
        kept.find(|(snapshot, block)| !is_known(*block) || self.of_block.get(block) != Some(snapshot))
            .map(|(_, block)| block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_state_is_found_and_the_least_used_goes() {
        let mut snapshots = Snapshots::new(2);
        assert_eq!(snapshots.deepest(&[7, 8, 9]), None);
        for block in [7, 8] {
            let snapshot = snapshots.lend().unwrap();
            assert!(snapshots.keep(snapshot, block).is_some());
        }
        assert_eq!(snapshots.deepest(&[7, 8, 9]), Some((2, 1)));
        assert_eq!(snapshots.deepest(&[7, 9]), Some((1, 0)));
        // That of block 8 has not been used for longest.
        let snapshot = snapshots.lend().unwrap();
        assert_eq!((snapshot, snapshots.deepest(&[8])), (1, None));
        assert_eq!(snapshots.keep(snapshot, 7), None);
        assert_eq!(snapshots.deepest(&[7]), Some((1, 0)), "it has one already");
        assert_eq!(snapshots.unsound(|block| block == 7), None);
        assert_eq!(snapshots.unsound(|_| false), Some(7));
        snapshots.forget(7);
        assert_eq!(snapshots.deepest(&[7]), None);
        assert_eq!([snapshots.lend(), snapshots.lend(), snapshots.lend()], [Some(0), Some(1), None]);
    }

    #[test]
    fn what_is_outgrown_goes_unless_it_was_of_use() {
        let mut snapshots = Snapshots::new(3);
        let mut kept = |block| {
            let snapshot = snapshots.lend().unwrap();
            snapshots.keep(snapshot, block).unwrap()
        };
        let [five, six, seven] = [5, 6, 7].map(&mut kept);
        snapshots.outgrow(five);
        assert_eq!(snapshots.deepest(&[5]), None);
        snapshots.deepest(&[6]);
        snapshots.outgrow(six);
        assert_eq!(snapshots.deepest(&[6]), Some((1, 1)), "it was found");
        snapshots.forget(7);
        let again = snapshots.lend().unwrap();
        snapshots.keep(again, 7);
        snapshots.outgrow(seven);
        assert!(snapshots.deepest(&[7]).is_some(), "another's, for what the block holds now");
    }
}
