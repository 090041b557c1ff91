//! Rows of a sequence's last positions: those of the step's own tokens where they were computed, earlier ones in the ring.

use super::attention::Sequence;

/// Where the rows of recent positions lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recent<'a, E> {
    /// `[T, width]`.
    pub(super) fresh: &'a [E],
    /// `[slots, ring_rows, width]`.
    pub(super) ring: &'a [E],
    pub(super) ring_rows: usize,
    pub(super) width: usize,
}

impl<'a, E> Recent<'a, E> {
    /// The row of `position` of a sequence whose state is in `slot`.
    pub(super) fn row(&self, sequence: &Sequence<'_>, slot: usize, position: usize) -> &'a [E] {
        let (from, at) = match place(sequence, (slot, self.ring_rows), position) {
            Place::Fresh(at) => (self.fresh, at),
            Place::Ring(at) => (self.ring, at),
        };
        &from[at * self.width..][..self.width]
    }
}

/// A row of the step, or of the rings.
pub(super) enum Place {
    Fresh(usize),
    Ring(usize),
}

/// Where the row of `position` lies, of a sequence whose state is in `slot` of rings of `ring_rows`.
pub(super) fn place(sequence: &Sequence<'_>, (slot, ring_rows): (usize, usize), position: usize) -> Place {
    match position.checked_sub(start(sequence)) {
        Some(i) => Place::Fresh(sequence.queries.start + i),
        None => Place::Ring(slot * ring_rows + position % ring_rows),
    }
}

/// The position of a sequence's first new token.
pub(super) fn start(sequence: &Sequence<'_>) -> usize {
    sequence.context - sequence.queries.len()
}
