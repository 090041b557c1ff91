//! [`StateSlots`]: who has which slot of the caches' state rings, for models that keep state per sequence.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::EngineError;

/// The slots of one engine; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct StateSlots {
    free: Arc<Mutex<Vec<u32>>>,
    count: usize,
    /// Tokens that a state can go back.
    rollback: usize,
}

/// A slot that a sequence has; dropping it gives it back. What lies in it needs no clearing.
#[derive(Debug)]
pub(crate) struct StateSlot {
    number: u32,
    /// The furthest that the sequence has ever got since it began: what went back since has left its rows.
    written: usize,
    slots: StateSlots,
}

impl StateSlots {
    /// `count` free slots of rings with rows to go back `rollback` tokens; none for models without state.
    pub(crate) fn new(count: usize, rollback: usize) -> Self {
        Self { free: Arc::new(Mutex::new((0..count as u32).rev().collect())), count, rollback }
    }

    /// Whether the model keeps state.
    pub(crate) fn exist(&self) -> bool {
        self.count > 0
    }

    /// All of them, free or not.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// A slot for a sequence that begins.
    ///
    /// # Errors
    /// [`EngineError::Slots`] if all are taken.
    pub(crate) fn take(&self) -> Result<StateSlot, EngineError> {
        let number = self.lock().pop().ok_or(EngineError::Slots { total: self.count })?;
        Ok(StateSlot { number, written: 0, slots: self.clone() })
    }

    /// A panic elsewhere cannot leave the list half written.
    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateSlot {
    /// Its place in every ring.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// A step has written the rows of tokens up to `len`, or may have.
    pub(crate) fn advance(&mut self, len: usize) {
        self.written = self.written.max(len);
    }

    /// Goes back to the first `len` tokens. Returns how many are left: none, where rows that the next token looks back on
    /// have been overwritten.
    pub(crate) fn step_back(&mut self, len: usize) -> usize {
        if self.written.saturating_sub(len) > self.slots.rollback {
            self.written = 0;
        }
        len.min(self.written)
    }
}

impl Drop for StateSlot {
    fn drop(&mut self) {
        self.slots.lock().push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_when_it_is_dropped() {
        let slots = StateSlots::new(2, 0);
        let (first, second) = (slots.take().unwrap(), slots.take().unwrap());
        assert_ne!(first.number(), second.number());
        assert!(matches!(slots.take(), Err(EngineError::Slots { total: 2 })));
        drop(first);
        assert_eq!(slots.take().unwrap().number(), 0);
        assert!(!StateSlots::new(0, 0).exist());
    }

    #[test]
    fn a_state_goes_back_so_far_and_no_further() {
        let mut slot = StateSlots::new(1, 3).take().unwrap();
        assert_eq!(slot.step_back(0), 0, "nothing yet");
        slot.advance(20);
        assert_eq!([slot.step_back(20), slot.step_back(18), slot.step_back(17)], [20, 18, 17]);
        // What was written up to 20 is there still.
        slot.advance(18);
        assert_eq!(slot.step_back(17), 17);
        assert_eq!(slot.step_back(16), 0);
        slot.advance(4);
        assert_eq!(slot.step_back(1), 1, "it has begun anew");
        let mut stiff = StateSlots::new(1, 0).take().unwrap();
        stiff.advance(5);
        assert_eq!([stiff.step_back(5), stiff.step_back(4)], [5, 0]);
    }
}
