//! [`StepInput`]: the tokens that a step feeds to every rank, over any number of sequences, and what it answers.

use std::borrow::Cow;

use kernels::ops::PagedBatch;
use kernels::{Device, Tensor, ops};
use models::{Batch, StepContext};

use crate::ranks::ask_group;
use crate::{EngineError, RankView};

/// For which of a sequence's new tokens the vocabulary is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// For none: more of the prompt follows.
    None,
    /// For the last one, from which the next token is sampled.
    Last,
    /// For all of them.
    All,
}

/// What a step computed, on the host: the memory of the device is the next step's.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// Logits `[R, V]` of the rows that were asked for.
    pub logits: Option<Tensor>,
}

/// New tokens of one sequence and where they go.
#[derive(Debug, Clone)]
pub(crate) struct StepChunk {
    pub(crate) tokens: Vec<u32>,
    /// Position of the first of them.
    pub(crate) start: usize,
    /// The sequence's block table, with room for them.
    pub(crate) blocks: Vec<u32>,
    /// The sequence's state slot, of models that keep state.
    pub(crate) slot: Option<u32>,
}

impl StepChunk {
    /// The position behind the last of them.
    pub(crate) fn end(&self) -> usize {
        self.start + self.tokens.len()
    }
}

/// One step; the same on every rank. The rows of a step are the tokens of its chunks, chunk after chunk.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepInput {
    /// `(source, target)`: blocks of every layer's cache that are copied before anything else.
    pub(crate) copies: Vec<(u32, u32)>,
    /// `(source, target)`: state slots that are copied before anything else.
    pub(crate) state_copies: Vec<(u32, u32)>,
    /// Snapshots that sequences of the step go on from, copied to their slots after that.
    pub(crate) state_restores: Vec<(u32, u32)>,
    /// Slots of sequences of the step, copied to snapshots when it is computed.
    pub(crate) state_saves: Vec<(u32, u32)>,
    pub(crate) chunks: Vec<StepChunk>,
    /// The rows that are scored, in this order; a row may be scored more than once.
    pub(crate) logit_rows: Vec<u32>,
    /// The rows whose final-normed hidden states are wanted.
    pub(crate) hidden_rows: Vec<u32>,
}

/// What a step computed, where it was computed, in memory that is the next step's.
pub(crate) struct StepTensors<'a> {
    /// Logits of the rows that were asked for. A replayed step has more rows behind them, which mean nothing.
    pub(crate) logits: Option<&'a Tensor>,
    /// Final-normed hidden states of the rows that were asked for.
    pub(crate) hidden: Option<&'a Tensor>,
}

impl StepInput {
    /// One rank's part of the step, and what `read` makes of its results. With `may_replay` a decode step is replayed
    /// where the device records such steps: on all ranks or on none, because their collectives have to meet.
    pub(crate) fn run<R>(
        &self,
        ctx: &mut StepContext<'_>,
        may_replay: bool,
        rank: &mut RankView<'_>,
        read: &mut impl FnMut(StepTensors<'_>) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        if !self.copies.is_empty() {
            rank.kv.copy_blocks(&self.copies)?;
            if let Some(draft) = &mut rank.draft {
                draft.kv.copy_blocks(&self.copies)?;
            }
        }
        for copies in
            [&self.state_copies, &self.state_restores].into_iter().filter(|copies| !copies.is_empty())
        {
            rank.kv.copy_states(copies)?;
            if let Some(draft) = &mut rank.draft {
                draft.kv.copy_states(copies)?;
            }
        }
        if let Some(draft) = &mut rank.draft {
            // Of the step before, if nobody used them; a replay takes the memory that they lie in.
            draft.hidden = None;
        }
        if may_replay
            && self.is_decode()
            && let Some(result) = rank.decode(&self.chunks, &mut |logits| {
                read(StepTensors { logits: Some(logits), hidden: None })
            })?
        {
            self.save_states(rank)?;
            return Ok(result);
        }
        if self.chunks.is_empty() {
            return read(StepTensors { logits: None, hidden: None });
        }
        let all = self.forward(ctx, rank)?;
        self.save_states(rank)?;
        let logits = wanted(&all, &self.logit_rows)?.map(|rows| rank.model.logits(&rows)).transpose()?;
        let hidden =
            wanted(&all, &self.hidden_rows)?.map(|rows| rank.model.final_normed(&rows)).transpose()?;
        if let Some(draft) = &mut rank.draft {
            draft.hidden = Some(all);
        }
        if logits.is_some() || hidden.is_some() {
            ask_group(rank.comm)?;
        }
        read(StepTensors { logits: logits.as_ref(), hidden: hidden.as_ref() })
    }

    fn save_states(&self, rank: &mut RankView<'_>) -> Result<(), EngineError> {
        if !self.state_saves.is_empty() {
            rank.kv.copy_states(&self.state_saves)?;
        }
        Ok(())
    }

    /// Whether all rows are scored, in order, and nothing else is wanted of them: a step that decodes or checks guesses.
    fn is_decode(&self) -> bool {
        let rows = self.chunks.iter().map(|chunk| chunk.tokens.len() as u32).sum();
        self.hidden_rows.is_empty() && self.logit_rows.iter().copied().eq(0..rows)
    }

    /// The hidden states of all rows, computed in the ordinary way.
    fn forward(&self, ctx: &mut StepContext<'_>, rank: &mut RankView<'_>) -> Result<Tensor, EngineError> {
        let batch = batch_of(rank.device, rank.kv.block_size(), &self.chunks)?;
        Ok(rank.model.forward(ctx, &batch, rank.kv)?)
    }
}

/// The device's side of `chunks`.
pub(crate) fn batch_of(
    device: &Device,
    block_size: usize,
    chunks: &[StepChunk],
) -> Result<Batch, EngineError> {
    let sequences: Vec<(usize, usize, &[u32])> =
        chunks.iter().map(|chunk| (chunk.tokens.len(), chunk.end(), &chunk.blocks[..])).collect();
    let paged = PagedBatch::new(device, block_size, &sequences)?;
    let slots: Option<Vec<u32>> = chunks.iter().map(|chunk| chunk.slot).collect();
    let paged = match slots {
        Some(slots) => paged.with_state_slots(&slots)?,
        None => paged,
    };
    let tokens: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.tokens.iter().copied()).collect();
    let positions: Vec<u32> =
        chunks.iter().flat_map(|chunk| chunk.start as u32..chunk.end() as u32).collect();
    Ok(Batch::new(&tokens, &positions, paged)?)
}

/// The rows `rows` of `hidden`; `None` if there are none.
fn wanted<'h>(hidden: &'h Tensor, rows: &[u32]) -> Result<Option<Cow<'h, Tensor>>, EngineError> {
    if rows.is_empty() { Ok(None) } else { gather(hidden, rows).map(Some) }
}

/// The rows `rows` of `hidden`, at least one.
pub(crate) fn gather<'h>(hidden: &'h Tensor, rows: &[u32]) -> Result<Cow<'h, Tensor>, EngineError> {
    if rows.iter().copied().eq(0..hidden.dim(0) as u32) {
        return Ok(Cow::Borrowed(hidden));
    }
    let rows = Tensor::from_u32(&hidden.device(), &[rows.len()], rows)?;
    Ok(Cow::Owned(ops::gather_rows(hidden, &rows)?))
}
