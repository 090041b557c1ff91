//! [`StateSlots`]: who has which slot of the caches' state rings, for models that keep state per sequence.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::EngineError;

/// The slots of one engine; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct StateSlots {
    free: Arc<Mutex<Vec<u32>>>,
    count: usize,
}

/// A slot that a sequence has; dropping it gives it back. What lies in it needs no clearing.
#[derive(Debug)]
pub(crate) struct StateSlot {
    number: u32,
    slots: StateSlots,
}

impl StateSlots {
    /// `count` free slots; none for models without state.
    pub(crate) fn new(count: usize) -> Self {
        Self { free: Arc::new(Mutex::new((0..count as u32).rev().collect())), count }
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
        Ok(StateSlot { number, slots: self.clone() })
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
        let slots = StateSlots::new(2);
        let (first, second) = (slots.take().unwrap(), slots.take().unwrap());
        assert_ne!(first.number(), second.number());
        assert!(matches!(slots.take(), Err(EngineError::Slots { total: 2 })));
        drop(first);
        assert_eq!(slots.take().unwrap().number(), 0);
        assert!(!StateSlots::new(0).exist());
    }
}
