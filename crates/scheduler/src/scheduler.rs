//! [`Scheduler`]: which sequences live, and how they come, pause and go.

use std::collections::{BTreeSet, HashMap};

use crate::plan::Flight;
use crate::queue::OwnerQueue;
use crate::sequence::{Member, Sequence, SequenceSpec};
use crate::stats::SchedulerStats;
use crate::{BlockAllocator, SchedulerError, SequenceId};

/// Bounds of a scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Most sequences that run at once; at least 1.
    pub max_num_seqs: usize,
    /// Most tokens of one plan; at least `max_num_seqs`, so that no running sequence is left out.
    pub max_num_batched_tokens: usize,
    /// Most prompts that wait; at least 1. Preempted sequences may exceed it, new ones may not.
    pub max_waiting: usize,
    /// Full blocks stay findable for prompts that begin with the same tokens ([`BlockAllocator::with_snapshots`] for
    /// sequences that keep state).
    pub prefix_cache: bool,
}

/// Continuous batching over a pool of KV blocks.
///
/// The caller's loop is [`schedule`](Self::schedule), run the plan, [`commit`](Self::commit). Sequences may come, pause
/// and end between any two calls. One plan is under way at a time.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) options: SchedulerOptions,
    pub(crate) blocks: BlockAllocator,
    /// Living sequences by ticket.
    pub(crate) sequences: HashMap<u64, Sequence>,
    /// The ticket of the sequence that each name belongs to.
    pub(crate) tickets: HashMap<SequenceId, u64>,
    /// Tickets of the sequences that hold blocks, the oldest first.
    pub(crate) running: BTreeSet<u64>,
    /// Those that wait and are not paused.
    pub(crate) queue: OwnerQueue,
    pub(crate) flight: Option<Flight>,
    next_ticket: u64,
    /// The counters; the rest is filled in on request.
    pub(crate) stats: SchedulerStats,
}

impl Scheduler {
    /// A scheduler without sequences. The pool may have other users; the prefix index belongs to it.
    ///
    /// # Errors
    /// [`SchedulerError::Option`] names an option that is out of range.
    pub fn new(blocks: BlockAllocator, options: SchedulerOptions) -> Result<Self, SchedulerError> {
        for (field, found, min) in [
            ("max_num_seqs", options.max_num_seqs, 1),
            ("max_num_batched_tokens", options.max_num_batched_tokens, options.max_num_seqs),
            ("max_waiting", options.max_waiting, 1),
        ] {
            if found < min {
                return Err(SchedulerError::Option { field, min, found });
            }
        }
        Ok(Self {
            options,
            blocks,
            sequences: HashMap::new(),
            tickets: HashMap::new(),
            running: BTreeSet::new(),
            queue: OwnerQueue::default(),
            flight: None,
            next_ticket: 0,
            stats: SchedulerStats::default(),
        })
    }

    /// Takes a sequence in; it waits for its turn.
    ///
    /// # Errors
    /// [`SchedulerError::EmptyPrompt`], [`Duplicate`](SchedulerError::Duplicate) name,
    /// [`TooManySiblings`](SchedulerError::TooManySiblings), [`TooLong`](SchedulerError::TooLong) for the whole pool, or
    /// [`QueueFull`](SchedulerError::QueueFull). Nothing has changed then.
    pub fn add(&mut self, spec: SequenceSpec) -> Result<(), SchedulerError> {
        self.check(&spec)?;
        let names = std::iter::once(&spec.id).chain(&spec.siblings);
        let members: Vec<Member> = (self.next_ticket..)
            .zip(names)
            .map(|(ticket, &id)| Member { id, ticket, paused: false })
            .collect();
        let ticket = self.next_ticket;
        self.next_ticket += members.len() as u64;
        self.tickets.extend(members.iter().map(|member| (member.id, ticket)));
        self.queue.join(spec.owner, members.len());
        self.queue.push(spec.owner, ticket);
        let sequence = Sequence {
            ticket,
            owner: spec.owner,
            salt: spec.salt,
            members,
            max_computed: max_computed(&spec),
            prefill_only: spec.max_tokens == 0,
            prompt_len: spec.prompt.len(),
            tokens: spec.prompt,
            guesses: Vec::new(),
            computed: 0,
            published: 0,
            charged: 0,
            cached_tokens: None,
            table: self.blocks.table(),
            running: false,
            in_flight: false,
            done: false,
            restore: None,
            answer: None,
            branch: 0,
            wanted_blocks: 0,
        };
        self.sequences.insert(ticket, sequence);
        Ok(())
    }

    fn check(&self, spec: &SequenceSpec) -> Result<(), SchedulerError> {
        if spec.prompt.is_empty() {
            return Err(SchedulerError::EmptyPrompt { id: spec.id.0 });
        }
        let most = if spec.max_tokens == 0 { 1 } else { self.options.max_num_seqs };
        let (found, max) = (spec.siblings.len() + 1, most);
        if found > max {
            return Err(SchedulerError::TooManySiblings { found, max });
        }
        let (needed, total) =
            (max_computed(spec).div_ceil(self.blocks.block_size()), self.blocks.num_blocks());
        if needed > total {
            return Err(SchedulerError::TooLong { needed, total });
        }
        let mut names = BTreeSet::new();
        for id in std::iter::once(&spec.id).chain(&spec.siblings) {
            if self.tickets.contains_key(id) || !names.insert(id) {
                return Err(SchedulerError::Duplicate { id: id.0 });
            }
        }
        let waiting = self.sequences.len() - self.running.len();
        if waiting >= self.options.max_waiting {
            return Err(SchedulerError::QueueFull { waiting });
        }
        Ok(())
    }

    /// Ends a sequence early. Its blocks are free at once, or when the plan that computes it is committed or aborted;
    /// full ones stay in the prefix cache. False if no such sequence lives.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let Some(ticket) = self.tickets.remove(&id) else { return false };
        let Some(sequence) = self.sequences.get_mut(&ticket) else { return false };
        sequence.members.retain(|member| member.id != id);
        let owner = sequence.owner;
        if sequence.is_idle() {
            self.queue.remove(owner, ticket);
        }
        if sequence.members.is_empty() {
            self.running.remove(&ticket);
            let ended = self.sequences.remove(&ticket).filter(|sequence| sequence.in_flight);
            if let Some(flight) = &mut self.flight {
                flight.ended.extend(ended);
            }
        }
        self.queue.leave(owner);
        true
    }

    /// Ends a sequence that has all it wanted; as [`cancel`](Self::cancel).
    pub fn finish(&mut self, id: SequenceId) {
        self.cancel(id);
    }

    /// A paused sequence is not scheduled, and others may take its blocks: its reader does not read. Siblings that
    /// have not parted go on while one of them is not paused. Nothing happens if no such sequence lives.
    pub fn pause(&mut self, id: SequenceId, paused: bool) {
        let Some((ticket, sequence)) =
            self.tickets.get(&id).and_then(|ticket| Some((*ticket, self.sequences.get_mut(ticket)?)))
        else {
            return;
        };
        for member in sequence.members.iter_mut().filter(|member| member.id == id) {
            member.paused = paused;
        }
        if sequence.is_idle() {
            self.queue.remove(sequence.owner, ticket);
        } else if !sequence.running {
            self.queue.push(sequence.owner, ticket);
        }
    }

    /// Tokens that may follow what is known of a sequence. The next plan computes them along with its last token, as many
    /// as budget and blocks allow that nobody else needs, and then forgets them: [`commit`](Self::commit) takes those
    /// that were right. Nothing happens if the sequence has more than one token to compute anyway, or siblings.
    pub fn guess(&mut self, id: SequenceId, tokens: Vec<u32>) {
        let Some(sequence) = self.tickets.get(&id).and_then(|ticket| self.sequences.get_mut(ticket)) else {
            return;
        };
        if sequence.remaining() == 1 && sequence.members.len() == 1 && sequence.running {
            sequence.guesses = tokens;
        }
    }

    /// Prompt and sampled tokens of a living sequence.
    pub fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        let sequence = self.sequences.get(self.tickets.get(&id)?)?;
        Some(&sequence.tokens)
    }

    /// Sequences that run, siblings that have not parted included.
    pub(crate) fn num_running(&self) -> usize {
        let members = |ticket| self.sequences.get(ticket).map_or(0, |sequence| sequence.members.len());
        self.running.iter().map(members).sum()
    }

    /// The state now and the counters so far.
    pub fn stats(&self) -> SchedulerStats {
        let running = self.num_running();
        let (total, free) = (self.blocks.num_blocks(), self.blocks.num_free_blocks());
        SchedulerStats {
            running,
            waiting: self.tickets.len() - running,
            num_blocks: total,
            num_used_blocks: total - free,
            num_free_blocks: free,
            num_cached_blocks: self.blocks.num_cached_blocks(),
            ..self.stats
        }
    }
}

/// Tokens whose keys are ever needed: the last one sampled is not computed.
fn max_computed(spec: &SequenceSpec) -> usize {
    spec.prompt.len().saturating_add(spec.max_tokens.max(1) - 1)
}
