//! [`SequenceSpec`], what a caller asks for, and [`Sequence`], where it stands.

use std::collections::HashMap;

use crate::BlockTable;
use crate::snapshots::Kept;

/// A caller's name for a sequence, unique among the living.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// Whom computed tokens are charged to. Owners share the machine equally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId(pub u64);

/// A sequence to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceSpec {
    /// Its name.
    pub id: SequenceId,
    /// Whom it is charged to.
    pub owner: OwnerId,
    /// Namespace of the prefix cache: only sequences of the same salt share blocks.
    pub salt: u64,
    /// The tokens to compute first; at least one.
    pub prompt: Vec<u32>,
    /// Most tokens that will be sampled. 0: only prefill, every token of the prompt, nothing from the prefix cache.
    pub max_tokens: usize,
    /// Further sequences that continue the same prompt; none if `max_tokens` is 0.
    pub siblings: Vec<SequenceId>,
}

/// One of the sequences that continue a prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) id: SequenceId,
    /// Its place in the order of arrival.
    pub(crate) ticket: u64,
    pub(crate) paused: bool,
}

/// A living sequence. Siblings are one sequence with several members until they sample for the first time.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Its place in the order of arrival, unique for ever: the older one goes first.
    pub(crate) ticket: u64,
    pub(crate) owner: OwnerId,
    pub(crate) salt: u64,
    pub(crate) members: Vec<Member>,
    /// Prompt and sampled tokens.
    pub(crate) tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub(crate) prompt_len: usize,
    /// Tokens it has at most, the last sampled one not counted: nothing is ever computed beyond.
    pub(crate) max_computed: usize,
    pub(crate) prefill_only: bool,
    /// What may follow `tokens`, to be computed with the last of them.
    pub(crate) guesses: Vec<u32>,
    /// Tokens whose keys are in the cache.
    pub(crate) computed: usize,
    /// Blocks that the prefix index knows.
    pub(crate) published: usize,
    /// Tokens that its owner was charged for: those computed again after a preemption are free.
    pub(crate) charged: usize,
    /// Tokens of the prompt found in the prefix cache at the first admission, which makes it `Some`.
    pub(crate) cached_tokens: Option<usize>,
    pub(crate) table: BlockTable,
    /// It has been admitted: it counts as running and may hold blocks.
    pub(crate) running: bool,
    /// A plan under way computes it.
    pub(crate) in_flight: bool,
    /// All its tokens have been computed; only its end is awaited.
    pub(crate) done: bool,
    /// The snapshot that its state is to be copied from when it first runs.
    pub(crate) restore: Option<u32>,
    /// The snapshot that its answer left last.
    pub(crate) answer: Option<Kept>,
    /// Tokens of the prefix that others have computed too: what begins like that may come again.
    pub(crate) branch: usize,
    /// Free blocks it needed when it last failed to be admitted.
    pub(crate) wanted_blocks: usize,
}

impl Sequence {
    /// Nothing to do before its reader, its end or its caller moves. Anybody may take its blocks.
    pub(crate) fn is_idle(&self) -> bool {
        self.done || self.members.iter().all(|member| member.paused)
    }

    /// Tokens that can be computed now.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len().min(self.max_computed).saturating_sub(self.computed)
    }

    /// Where a chunk from `computed` to `end` has to end, and whether the state there is worth a snapshot: at the end of
    /// what others share, and in the last block that it can be found again by. With `guesses` behind it a chunk goes on: if
    /// they are right, its state serves as that of a block's end that it went past.
    pub(crate) fn stop(&self, end: usize, guesses: usize, block_size: usize) -> (usize, bool) {
        let whole = |tokens: usize| tokens / block_size * block_size;
        if guesses > 0 {
            return (end, whole(end + guesses) > self.computed);
        }
        let known = self.tokens.len().min(self.max_computed);
        let stops = [self.branch, whole(known.saturating_sub(1)), whole(known)];
        let stop = stops.into_iter().filter(|stop| (self.computed + 1..=end).contains(stop)).min();
        (stop.unwrap_or(end), stop.is_some())
    }

    /// The block at whose end the state behind a chunk can be gone on from; `end` is that of the chunk's known tokens. It is
    /// the last whole block of what holds, at which the chunk ends or which it went past with guesses, as a state may. If too
    /// few of them were right, there is none.
    pub(crate) fn block_behind(&self, end: usize, block_size: usize) -> Option<u32> {
        let blocks = self.computed.max(end) / block_size;
        if blocks * block_size < end {
            None
        } else {
            self.table.blocks().get(blocks.checked_sub(1)?).copied()
        }
    }

    /// The row of token `end - 1` is sampled from.
    pub(crate) fn samples_at(&self, end: usize) -> bool {
        !self.prefill_only && end == self.tokens.len()
    }

    /// Takes note that the keys up to `end` are in the cache, and makes whole blocks findable if `publish`.
    pub(crate) fn computed_to(&mut self, end: usize, publish: bool, block_size: usize) {
        self.computed = end;
        let full = end / block_size;
        if publish && full > self.published {
            self.table.publish(self.salt, &self.tokens[..full * block_size], self.published);
            self.published = full;
        }
    }

    /// The last token's row was to be sampled from. With a sample the sequence goes on, by as many tokens more as
    /// `guesses` were right; without one it computes that row again.
    pub(crate) fn accept(
        &mut self,
        sampled: &HashMap<SequenceId, Vec<u32>>,
        guesses: &[u32],
        publish: bool,
        block_size: usize,
    ) {
        let tokens = self.members.first().and_then(|member| sampled.get(&member.id));
        match tokens {
            Some(tokens) => {
                let right = tokens.iter().zip(guesses).take_while(|(token, guess)| token == guess).count();
                self.tokens.extend(tokens.iter().take(right + 1));
                // The keys of right guesses are those of the tokens. Blocks that only wrong ones used go back.
                self.computed_to(self.tokens.len() - 1, publish, block_size);
                self.table.truncate(self.computed);
                self.done = self.remaining() == 0;
            }
            None => {
                self.computed -= 1;
                self.published = self.published.min(self.computed / block_size);
            }
        }
    }

    /// The same tokens in the same blocks for one of its members alone.
    pub(crate) fn fork(&self, member: Member) -> Self {
        Self {
            ticket: member.ticket,
            members: vec![member],
            tokens: self.tokens.clone(),
            guesses: Vec::new(),
            answer: None,
            table: self.table.fork(),
            in_flight: false,
            ..*self
        }
    }

    /// Gives its blocks back; everything is to be computed again.
    pub(crate) fn start_over(&mut self) {
        self.table.truncate(0);
        self.guesses.clear();
        (self.computed, self.published, self.running) = (0, 0, false);
        (self.restore, self.answer) = (None, None);
    }
}
