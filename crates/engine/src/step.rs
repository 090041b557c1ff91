//! [`StepInput`]: the tokens that a step feeds to every rank, and what it answers.

use kernels::ops::PagedBatch;
use kernels::{Tensor, ops};
use models::{Batch, StepContext};

use crate::{EngineError, RankView};

/// For which of a step's tokens the vocabulary is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// For none: more of the prompt follows.
    None,
    /// For the last one, from which the next token is sampled.
    Last,
    /// For all of them.
    All,
}

/// What a step computed.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// Final-normed hidden states `[T, D]`.
    pub hidden: Tensor,
    /// Logits `[R, V]` of the rows that were asked for.
    pub logits: Option<Tensor>,
}

/// New tokens of one sequence and where they go; the same on every rank.
#[derive(Debug, Clone)]
pub(crate) struct StepInput {
    pub(crate) tokens: Vec<u32>,
    /// Position of the first of them.
    pub(crate) start: usize,
    /// The sequence's block table, with room for them.
    pub(crate) blocks: Vec<u32>,
    pub(crate) block_size: usize,
    pub(crate) rows: LogitRows,
}

impl StepInput {
    /// One rank's part of the step. This is the only place where a batch is made.
    pub(crate) fn run(
        &self,
        ctx: &mut StepContext<'_>,
        rank: &mut RankView<'_>,
    ) -> Result<StepOutput, EngineError> {
        let (count, end) = (self.tokens.len(), self.start + self.tokens.len());
        let paged = PagedBatch::new(rank.device, self.block_size, &[(count, end, &self.blocks)])?;
        let positions: Vec<u32> = (self.start as u32..end as u32).collect();
        let batch = Batch::new(&self.tokens, &positions, paged)?;
        let hidden = rank.model.forward(ctx, &batch, rank.kv)?;
        let logits = match self.rows {
            LogitRows::None => None,
            LogitRows::All => Some(rank.model.logits(&hidden)?),
            LogitRows::Last => {
                let last = Tensor::from_u32(rank.device, &[1], &[count as u32 - 1])?;
                Some(rank.model.logits(&ops::gather_rows(&hidden, &last)?)?)
            }
        };
        Ok(StepOutput { hidden, logits })
    }
}
