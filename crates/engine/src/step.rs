//! [`StepInput`]: the tokens that a step feeds to every rank, and what it answers.

use kernels::ops::PagedBatch;
use kernels::{Tensor, ops};
use models::{Batch, StepContext};

use crate::ranks::ask_group;
use crate::recorded::DecodeRow;
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

/// What a step computed, on the host: the memory of the device is the next step's.
#[derive(Debug, Clone)]
pub struct StepOutput {
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
    /// One rank's part of the step, replayed where it is a decode step that the device has recorded, and what `read`
    /// makes of its logits. They lie on the device, in memory that is the next step's.
    pub(crate) fn run<R>(
        &self,
        ctx: &mut StepContext<'_>,
        rank: &mut RankView<'_>,
        read: &mut impl FnMut(&Tensor) -> Result<R, EngineError>,
    ) -> Result<Option<R>, EngineError> {
        if let (&[token], LogitRows::Last, false) = (&self.tokens[..], self.rows, ctx.is_probed()) {
            let row = DecodeRow { token, position: self.start as u32, blocks: &self.blocks };
            if let Some(result) = rank.decode(&[row], read)? {
                return Ok(Some(result));
            }
        }
        let Some(logits) = self.compute(ctx, rank)? else {
            return Ok(None);
        };
        ask_group(rank.comm)?;
        Ok(Some(read(&logits)?))
    }

    /// The step in the ordinary way.
    fn compute(
        &self,
        ctx: &mut StepContext<'_>,
        rank: &mut RankView<'_>,
    ) -> Result<Option<Tensor>, EngineError> {
        let (count, end) = (self.tokens.len(), self.start + self.tokens.len());
        let paged = PagedBatch::new(rank.device, self.block_size, &[(count, end, &self.blocks)])?;
        let positions: Vec<u32> = (self.start as u32..end as u32).collect();
        let batch = Batch::new(&self.tokens, &positions, paged)?;
        let hidden = rank.model.forward(ctx, &batch, rank.kv)?;
        let logits = match self.rows {
            LogitRows::None => return Ok(None),
            LogitRows::All => rank.model.logits(&hidden)?,
            LogitRows::Last => {
                let last = Tensor::from_u32(rank.device, &[1], &[count as u32 - 1])?;
                rank.model.logits(&ops::gather_rows(&hidden, &last)?)?
            }
        };
        Ok(Some(logits))
    }
}
