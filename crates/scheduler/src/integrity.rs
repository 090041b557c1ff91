//! [`Scheduler::check_integrity`]: the books agree with each other.

use crate::sequence::Sequence;
use crate::{Scheduler, SchedulerError};

impl Scheduler {
    /// Proves that every sequence is where its state says, that its blocks have room for what it computed, and that the
    /// pool's own books are sound. Looks at everything: for tests and idle times.
    ///
    /// # Errors
    /// [`SchedulerError::Books`] names the first sequence, [`SchedulerError::Integrity`] the first block for which that
    /// does not hold.
    pub fn check_integrity(&self) -> Result<(), SchedulerError> {
        self.blocks.check_integrity()?;
        let mut waiting = 0;
        let mut living = 0;
        for sequence in self.sequences.values() {
            self.check_sequence(sequence)?;
            living += sequence.members.len();
            waiting += usize::from(!sequence.running && !sequence.is_idle());
        }
        let lost = |found| Err(SchedulerError::Books { id: 0, found });
        if self.tickets.len() != living {
            return lost("one of more names than there are sequences");
        }
        let owners = || self.queue.owners();
        if owners().map(|(living, ..)| living).sum::<usize>() != living {
            return lost("charged to nobody");
        }
        if owners().map(|(_, waiting, _)| waiting).sum::<usize>() != waiting {
            return lost("queued twice or not at all");
        }
        if owners().any(|(.., listed)| !listed) {
            return lost("queued where nobody looks");
        }
        Ok(())
    }

    fn check_sequence(&self, sequence: &Sequence) -> Result<(), SchedulerError> {
        let size = self.blocks.block_size();
        let Sequence { ticket, table, computed, .. } = sequence;
        let is_named = |id| self.tickets.get(id) == Some(ticket);
        let waits = self.queue.waits(sequence.owner, *ticket);
        let found = if sequence.members.is_empty() {
            "alive without a name"
        } else if !sequence.members.iter().all(|member| is_named(&member.id)) {
            "not found by its name"
        } else if sequence.running != self.running.contains(ticket) {
            "running and not running"
        } else if waits != (!sequence.running && !sequence.is_idle()) {
            "waiting in the wrong place"
        } else if !sequence.running && (!table.blocks().is_empty() || *computed > 0) {
            "holding blocks while it waits"
        } else if table.blocks().len() * size < *computed {
            "without room for what it computed"
        } else if sequence.published > computed / size {
            "findable beyond what it computed"
        } else if sequence.in_flight && self.flight.is_none() {
            "computed by no plan"
        } else {
            return Ok(());
        };
        Err(SchedulerError::Books { id: sequence.members.first().map_or(0, |member| member.id.0), found })
    }
}
