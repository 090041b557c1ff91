//! [`Seen`]: a bounded memory of hashes, enough to say why a prefix missed.

use std::collections::{HashSet, VecDeque};

/// The last hashes that were noted, at most `capacity` of them.
#[derive(Debug)]
pub(crate) struct Seen {
    hashes: HashSet<u64>,
    /// The oldest first.
    order: VecDeque<u64>,
    capacity: usize,
}

impl Seen {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { hashes: HashSet::new(), order: VecDeque::new(), capacity }
    }

    /// Remembers `hash`, and forgets the oldest one for it if need be.
    pub(crate) fn note(&mut self, hash: u64) {
        if !self.hashes.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, hash: u64) -> bool {
        self.hashes.contains(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_oldest_goes() {
        let mut seen = Seen::new(3);
        for hash in [1, 2, 1, 3, 4] {
            seen.note(hash);
            assert!(seen.hashes.len() <= 3 && seen.order.len() == seen.hashes.len());
        }
        assert_eq!([1, 2, 3, 4].map(|hash| seen.contains(hash)), [false, true, true, true]);
    }
}
