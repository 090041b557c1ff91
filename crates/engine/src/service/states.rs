//! [`States`]: the state slots of the sequences that a service runs, for models that keep state per sequence.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use scheduler::{Chunk, SequenceId};

use crate::state_slots::{StateSlot, StateSlots};
use crate::{Engine, EngineError};

/// Who has which slot. A sequence that loses its blocks loses its slot, too, and begins again in another.
#[derive(Default)]
pub(crate) struct States {
    slots: HashMap<SequenceId, StateSlot>,
    /// What siblings that have parted need of the one that computed their prompt, before the next step.
    copies: Vec<(u32, u32)>,
}

impl States {
    /// The slots of `chunks`, in order; sequences that begin get one, and so do the siblings that part after the step.
    /// `None`s for models without state.
    ///
    /// # Errors
    /// [`EngineError::Slots`] if there are too few.
    pub(crate) fn of(&mut self, engine: &Engine, chunks: &[Chunk]) -> Result<Vec<Option<u32>>, EngineError> {
        if !engine.slots().exist() {
            return Ok(vec![None; chunks.len()]);
        }
        let mut numbers = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let begins = chunk.start == 0 || chunk.restore.is_some();
            if !begins && !self.slots.contains_key(&chunk.id) {
                let expected = "the state of its first tokens";
                return Err(EngineError::request("sequence", expected, "none"));
            }
            for id in std::iter::once(&chunk.id).chain(&chunk.sample) {
                self.give(*id, engine.slots())?;
            }
            numbers.push(self.slots.get(&chunk.id).map(StateSlot::number));
        }
        Ok(numbers)
    }

    fn give(&mut self, id: SequenceId, slots: &StateSlots) -> Result<(), EngineError> {
        if let Entry::Vacant(place) = self.slots.entry(id) {
            place.insert(slots.take()?);
        }
        Ok(())
    }

    /// `chunks` have been computed: the siblings of each part from it.
    pub(crate) fn part(&mut self, chunks: &[Chunk]) {
        for chunk in chunks {
            let number = |id: &SequenceId| self.slots.get(id).map(StateSlot::number);
            let siblings = chunk.sample.iter().filter(|id| **id != chunk.id);
            self.copies.extend(siblings.filter_map(|id| Some((number(&chunk.id)?, number(id)?))));
        }
    }

    /// The copies to make before the next step.
    pub(crate) fn take_copies(&mut self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.copies)
    }

    /// A sequence is over, or starts again.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        let Some(slot) = self.slots.remove(&id) else { return };
        self.copies.retain(|(_, target)| *target != slot.number());
    }
}
