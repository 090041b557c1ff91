//! [`Arena`]: which ranges of the step memory are taken. Integers only; the memory itself belongs to the device.
//!
//! A step's activations come and go in the same order whenever the same shapes run, and first fit over an arena that
//! is in the same state gives them the same addresses: a captured graph may be replayed. Reuse within a step needs no
//! wait, because all work is in order on one stream.

use std::collections::BTreeMap;

/// Ranges start on such a boundary: a full line for every kind of load, as `cuMemAlloc` guarantees.
const ALIGN: u64 = 256;

/// First fit over chunks of device memory.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Free ranges by start address, never adjacent within a chunk.
    free: BTreeMap<u64, u64>,
    /// Start and size of each chunk.
    chunks: BTreeMap<u64, u64>,
    used: u64,
    peak: u64,
    /// Ranges taken since `note`, while a step is recorded.
    noted: Option<Vec<(u64, u64)>>,
}

/// What a range of `bytes` takes up.
fn rounded(bytes: usize) -> u64 {
    (bytes as u64).max(1).div_ceil(ALIGN) * ALIGN
}

impl Arena {
    /// Takes `bytes`, or nothing if no free range is large enough.
    pub(super) fn take(&mut self, bytes: usize) -> Option<u64> {
        let needed = rounded(bytes);
        let (&start, &size) = self.free.iter().find(|&(_, &size)| size >= needed)?;
        self.free.remove(&start);
        if size > needed {
            self.free.insert(start + needed, size - needed);
        }
        self.used += needed;
        self.peak = self.peak.max(self.used);
        if let Some(noted) = &mut self.noted {
            noted.push((start, needed));
        }
        Some(start)
    }

    /// Gives a range back.
    pub(super) fn give(&mut self, start: u64, bytes: usize) {
        let (mut start, mut size) = (start, rounded(bytes));
        self.used -= size;
        // Chunks may lie side by side in memory and are still freed one by one, so ranges never join across them.
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
            && !self.chunks.contains_key(&start)
        {
            self.free.remove(&before);
            (start, size) = (before, size + length);
        }
        let end = start + size;
        if !self.chunks.contains_key(&end)
            && let Some(length) = self.free.remove(&end)
        {
            size += length;
        }
        self.free.insert(start, size);
    }

    /// Starts to note every range that is taken.
    pub(super) fn note(&mut self) {
        self.noted = Some(Vec::new());
    }

    /// The ranges taken since `note`, each once.
    pub(super) fn noted(&mut self) -> Vec<(u64, u64)> {
        let mut noted = self.noted.take().unwrap_or_default();
        noted.sort_unstable();
        noted.dedup();
        noted
    }

    /// Whether nobody has taken any part of a range.
    pub(super) fn is_free(&self, start: u64, bytes: u64) -> bool {
        let before = self.free.range(..=start).next_back();
        before.is_some_and(|(&free, &size)| start + bytes <= free + size)
    }

    /// Adds a chunk of device memory.
    pub(super) fn add_chunk(&mut self, start: u64, bytes: u64) {
        self.chunks.insert(start, bytes);
        self.free.insert(start, bytes);
    }

    /// The chunks, for freeing.
    pub(super) fn chunks(&self) -> impl Iterator<Item = u64> {
        self.chunks.keys().copied()
    }

    /// Most bytes that were taken at once.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak
    }

    /// Bytes of all chunks.
    pub(super) fn capacity_bytes(&self) -> u64 {
        self.chunks.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(bytes: u64) -> Arena {
        let mut arena = Arena::default();
        arena.add_chunk(1 << 20, bytes);
        arena
    }

    #[test]
    fn the_same_requests_get_the_same_addresses() {
        let mut arena = arena(1 << 16);
        let step = |arena: &mut Arena| {
            let a = arena.take(1000).unwrap();
            let b = arena.take(5000).unwrap();
            arena.give(a, 1000);
            let c = arena.take(300).unwrap();
            let d = arena.take(900).unwrap();
            for (start, bytes) in [(c, 300), (b, 5000), (d, 900)] {
                arena.give(start, bytes);
            }
            [a, b, c, d]
        };
        let first = step(&mut arena);
        assert_eq!(first[0], first[2], "freed memory is used again at once");
        assert_eq!(step(&mut arena), first);
        assert_eq!(arena.used, 0);
        assert_eq!(arena.peak_bytes(), 1024 + 5120 + 512);
    }

    #[test]
    fn a_recording_knows_its_ranges() {
        let mut arena = arena(1 << 16);
        arena.note();
        let (a, b) = (arena.take(256).unwrap(), arena.take(512).unwrap());
        arena.give(a, 256);
        assert_eq!(arena.take(256), Some(a));
        arena.give(a, 256);
        assert_eq!(arena.noted(), [(a, 256), (b, 512)]);
        assert!(arena.is_free(a, 256) && !arena.is_free(a, 512) && !arena.is_free(b, 512));
        arena.give(b, 512);
        assert!(arena.is_free(a, 768) && !arena.is_free(a, 1 << 17));
    }

    #[test]
    fn live_ranges_never_overlap_and_everything_joins_again() {
        let mut arena = arena(1 << 14);
        arena.add_chunk((1 << 20) + (1 << 14), 1 << 12);
        let mut live: Vec<(u64, usize)> = Vec::new();
        let mut state = 7_u64;
        for _ in 0..2000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = (state >> 33) as usize % 1500;
            match arena.take(bytes) {
                Some(start) => {
                    assert_eq!(start % ALIGN, 0);
                    for &(other, length) in &live {
                        assert!(start + rounded(bytes) <= other || other + rounded(length) <= start);
                    }
                    live.push((start, bytes));
                }
                None => {
                    let (start, bytes) = live.swap_remove(state as usize % live.len());
                    arena.give(start, bytes);
                }
            }
        }
        for (start, bytes) in live.drain(..) {
            arena.give(start, bytes);
        }
        assert!(arena.take(1 << 14).is_some() && arena.take(1 << 12).is_some(), "two whole chunks are free");
        assert!(arena.take(1).is_none());
    }
}
