//! [`Plan`]: what one step computes, and [`Flight`], what must not move while it does.

use crate::sequence::Sequence;
use crate::{BlockTable, SequenceId};

/// The work of one step. Hand it back with [`commit`](crate::Scheduler::commit) or
/// [`abort`](crate::Scheduler::abort); until then no block it names goes to anybody else.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    /// Blocks to copy before the step, all at once: no block is written twice or both read and written.
    pub copies: Vec<BlockCopy>,
    /// What to compute: sequences with one token first, then parts of prompts. One chunk per sequence.
    pub chunks: Vec<Chunk>,
    /// Sequences that lost their blocks and wait again. They start over: what was summed up over their prompt is void.
    pub preempted: Vec<SequenceId>,
    /// A sequence could not go on or start for want of blocks. If nothing is in `chunks` either, tables outside the
    /// scheduler hold them: ask again when one was dropped, nobody will call.
    pub short_of_blocks: bool,
    /// Tells a lost plan from the current one.
    pub(crate) step: u64,
}

impl Plan {
    /// Nothing to compute. Such a plan needs neither commit nor abort.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Tokens of all chunks.
    pub fn num_tokens(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.tokens.len()).sum()
    }
}

/// All rows of block `from` go to block `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// Read.
    pub from: u32,
    /// Written.
    pub to: u32,
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The sequence; of siblings that have not parted yet, the first that lives.
    pub id: SequenceId,
    /// Position of the first token.
    pub start: usize,
    /// The tokens to compute; their keys go to positions `start..`.
    pub tokens: Vec<u32>,
    /// How many of them, at the end, are guesses ([`Scheduler::guess`](crate::Scheduler::guess)): a token is sampled
    /// from their rows too, and holds as far as the guesses before it were right.
    pub guesses: usize,
    /// The token behind them, where it is known: a part of a prompt ends here.
    pub next: Option<u32>,
    /// The blocks of the sequence: position `p` is row `p % block_size` of block `blocks[p / block_size]`.
    pub blocks: Vec<u32>,
    /// Prompt tokens that came from the prefix cache when the sequence first ran; the same in each of its chunks.
    pub cached_tokens: usize,
    /// Who samples from the row of the last token that is no guess: nobody before the end of the prompt, then the
    /// sequence, and its siblings too when they part. Empty for sequences that only prefill.
    pub sample: Vec<SequenceId>,
    /// The snapshot that the sequence's state is copied from before the step: it goes on behind a cached prefix.
    pub restore: Option<u32>,
    /// The snapshot that the sequence's state is copied to after the step, guesses included: whoever restores it may go on
    /// from any of them, so a state has to be one that can go back as many tokens as are guessed. Another sequence of the
    /// plan may restore what was in it before.
    pub save: Option<u32>,
}

/// What a plan under way needs to stay as it is.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) step: u64,
    pub(crate) chunks: Vec<FlightChunk>,
    pub(crate) copies: Vec<FlightCopy>,
    /// Sequences that ended meanwhile: their blocks are still read and written.
    pub(crate) ended: Vec<Sequence>,
}

#[derive(Debug)]
pub(crate) struct FlightChunk {
    pub(crate) ticket: u64,
    /// The end of the tokens that are known.
    pub(crate) end: usize,
    pub(crate) guesses: Vec<u32>,
    pub(crate) samples: bool,
    /// It goes beyond the prompt: what it leaves is an answer's.
    pub(crate) answers: bool,
    pub(crate) restored: bool,
    pub(crate) save: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct FlightCopy {
    pub(crate) ticket: u64,
    /// The block that is read.
    pub(crate) from: u32,
    /// The sequence's blocks as they were. All of them: who holds a block holds what it continues.
    pub(crate) before: BlockTable,
}
