//! [`Scheduler::commit`] and [`Scheduler::abort`]: how a step ends.

use std::collections::HashMap;

use crate::plan::{Flight, FlightChunk, Plan};
use crate::snapshots::Kept;
use crate::{Scheduler, SequenceId};

impl Scheduler {
    /// The plan was carried out: its copies are made, the keys of its tokens are in the cache, and these tokens follow.
    /// Behind a right guess comes the token that was sampled from its row: a sequence may be named several times, its
    /// tokens in order, and what follows a wrong guess is ignored.
    /// From now on others find those keys by their tokens: if one chunk failed alone, cancel its sequence *before* the
    /// commit. If nobody samples from a chunk that was to be sampled from, it counts as failed and is due again; if
    /// only some siblings do, the others compute the last token again, and sample then. Tokens for sequences that
    /// ended meanwhile are ignored, and so is a plan that is not the current one.
    pub fn commit(&mut self, plan: Plan, sampled: &[(SequenceId, u32)]) {
        let Some(flight) = self.flight.take_if(|flight| flight.step == plan.step) else { return };
        let mut tokens: HashMap<SequenceId, Vec<u32>> = HashMap::with_capacity(sampled.len());
        for &(id, token) in sampled {
            tokens.entry(id).or_default().push(token);
        }
        for chunk in &flight.chunks {
            let block = self.commit_chunk(chunk, &tokens);
            let kept = chunk.save.and_then(|snapshot| self.blocks.pool.return_snapshot(snapshot, block));
            if chunk.answers && kept.is_some() {
                self.outgrow(chunk.ticket, kept);
            }
        }
    }

    /// An answer needs one snapshot, behind its last block: the next turn begins with all of it.
    fn outgrow(&mut self, ticket: u64, kept: Option<Kept>) {
        let Some(sequence) = self.sequences.get_mut(&ticket) else { return };
        if let Some(before) = std::mem::replace(&mut sequence.answer, kept) {
            self.blocks.pool.outgrow_snapshot(before);
        }
    }

    /// The plan failed: nothing was computed, and the same work is due again. Preempted sequences stay so. A plan that
    /// is not the current one is ignored.
    pub fn abort(&mut self, plan: Plan) {
        if self.flight.as_ref().is_some_and(|flight| flight.step == plan.step) {
            self.abort_flight();
        }
    }

    /// Undoes the copies of the plan under way, if any, and lets go of what it held.
    pub(crate) fn abort_flight(&mut self) {
        let Some(Flight { chunks, copies, .. }) = self.flight.take() else { return };
        for copy in copies {
            if let Some(sequence) = self.sequences.get_mut(&copy.ticket) {
                sequence.table = copy.before;
            }
        }
        for chunk in chunks {
            if let Some(snapshot) = chunk.save {
                self.blocks.pool.return_snapshot(snapshot, None);
            }
            let Some(sequence) = self.sequences.get_mut(&chunk.ticket) else { continue };
            sequence.in_flight = false;
            if chunk.restored {
                // Its state was not restored, and the snapshot may be another's by the next plan.
                sequence.start_over();
                self.running.remove(&chunk.ticket);
                if !sequence.is_idle() {
                    self.queue.push(sequence.owner, chunk.ticket);
                }
            }
        }
    }

    /// The block at whose end the state behind the chunk can be gone on from, if the chunk was computed.
    fn commit_chunk(&mut self, chunk: &FlightChunk, sampled: &HashMap<SequenceId, Vec<u32>>) -> Option<u32> {
        let (publish, size) = (self.options.prefix_cache, self.blocks.block_size());
        let sequence = self.sequences.get_mut(&chunk.ticket)?;
        sequence.in_flight = false;
        if chunk.samples && !sequence.members.iter().any(|member| sampled.contains_key(&member.id)) {
            return None;
        }
        sequence.computed_to(chunk.end, publish, size);
        if !chunk.samples {
            sequence.done = sequence.prefill_only && sequence.remaining() == 0;
            return sequence.block_behind(chunk.end, size);
        }
        let parting = sequence.members.split_off(1);
        let siblings: Vec<_> = parting.into_iter().map(|member| sequence.fork(member)).collect();
        sequence.accept(sampled, &chunk.guesses, publish, size);
        let block = sequence.block_behind(chunk.end, size);
        for mut sibling in siblings {
            sibling.accept(sampled, &[], publish, size);
            self.running.insert(sibling.ticket);
            self.tickets.extend(sibling.members.iter().map(|member| (member.id, sibling.ticket)));
            self.sequences.insert(sibling.ticket, sibling);
        }
        block
    }
}
