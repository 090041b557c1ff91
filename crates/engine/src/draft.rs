//! [`DraftInput`]: what the MTP layer computes after a step, on every rank: its rows of the cache, and its guesses.

use kernels::ops::{self, Choice, SampleBatch, SampleParams};
use kernels::{Device, Tensor};
use models::{KvCache, Mtp, StepContext};

use crate::ranks::ask_group;
use crate::step::{StepChunk, batch_of, gather};
use crate::{EngineError, RankView};

/// What a rank keeps for the MTP layer.
#[derive(Debug)]
pub(crate) struct DraftState {
    /// Its cache, over the same blocks as the main model's.
    pub(crate) kv: KvCache,
    /// Hidden states of all rows of the last step, until they are used.
    pub(crate) hidden: Option<Tensor>,
}

/// One sequence of the step before.
#[derive(Debug, Clone)]
pub(crate) struct DraftChunk {
    /// Its tokens *behind* the rows that hold, under the positions of these rows: the last is the newest token.
    pub(crate) chunk: StepChunk,
    /// The step's row of the first of them.
    pub(crate) first_row: u32,
    /// Guesses that are wanted.
    pub(crate) count: usize,
}

impl DraftChunk {
    /// Guesses whose rows have room in the sequence's blocks; the first guess needs no row of its own.
    fn room(&self, block_size: usize) -> usize {
        let end = self.chunk.start + self.chunk.tokens.len();
        self.count.min(1 + (self.chunk.blocks.len() * block_size).saturating_sub(end))
    }
}

/// All sequences of the step before; the same on every rank.
#[derive(Debug, Clone, Default)]
pub(crate) struct DraftInput {
    pub(crate) chunks: Vec<DraftChunk>,
    /// Slots that the step copied to snapshots: the layer's rows of it are there only now.
    pub(crate) state_saves: Vec<(u32, u32)>,
}

/// A sequence that is still guessed for.
struct Open {
    /// Its place in the input, its row of the last hidden states, and the guesses that are still wanted.
    index: usize,
    row: u32,
    left: usize,
}

impl DraftInput {
    /// One rank's part: the guesses for each sequence, in order. The ranks guess alike, because all have all logits.
    pub(crate) fn run(&self, rank: &mut RankView<'_>) -> Result<Vec<Vec<u32>>, EngineError> {
        let mut guesses = vec![Vec::new(); self.chunks.len()];
        let (Some(state), Some(mtp)) = (&mut rank.draft, rank.model.mtp()) else { return Ok(guesses) };
        let (Some(all), false) = (state.hidden.take(), self.chunks.is_empty()) else { return Ok(guesses) };
        let block_size = state.kv.block_size();
        let rows: Vec<u32> = self.chunks.iter().flat_map(DraftChunk::rows).collect();
        let hidden = gather(&all, &rows)?.into_owned();
        // A step's memory is planned for one of them.
        drop(all);
        let chunks: Vec<StepChunk> = self.chunks.iter().map(|draft| draft.chunk.clone()).collect();
        let mut hidden = forward(rank.device, mtp, &mut state.kv, &chunks, &hidden)?;
        if !self.state_saves.is_empty() {
            state.kv.copy_states(&self.state_saves)?;
        }

        let ends = self.chunks.iter().scan(0, |end, draft| {
            *end += draft.chunk.tokens.len() as u32;
            Some(*end)
        });
        let open = ends.zip(&self.chunks).enumerate();
        let mut open: Vec<Open> = open
            .map(|(index, (end, draft))| Open { index, row: end - 1, left: draft.room(block_size) })
            .filter(|open| open.left > 0)
            .collect();
        while !open.is_empty() {
            let rows: Vec<u32> = open.iter().map(|open| open.row).collect();
            let last = gather(&hidden, &rows)?.into_owned();
            let logits = mtp.logits(0, &last)?;
            ask_group(rank.comm)?;
            let tokens = most_probable(&logits)?;
            let mut rows = Vec::new();
            for ((row, open), token) in (0..).zip(&mut open).zip(tokens) {
                // Without a distribution, as over rows that nobody wrote, there is nothing to guess.
                open.left = token.map_or(0, |_| open.left - 1);
                guesses[open.index].extend(token);
                if open.left > 0 {
                    open.row = rows.len() as u32;
                    rows.push(row);
                }
            }
            open.retain(|open| open.left > 0);
            if !open.is_empty() {
                let chunks: Vec<StepChunk> = open.iter().map(|o| self.guessed(o.index, &guesses)).collect();
                let before = gather(&last, &rows)?;
                hidden = forward(rank.device, mtp, &mut state.kv, &chunks, &before)?;
            }
        }
        Ok(guesses)
    }

    /// The last guess at what follows sequence `index`, under the position of the token before it.
    fn guessed(&self, index: usize, guesses: &[Vec<u32>]) -> StepChunk {
        let StepChunk { tokens, start, blocks, slot } = &self.chunks[index].chunk;
        let guesses = &guesses[index];
        let position = start + tokens.len() - 1 + guesses.len();
        StepChunk {
            tokens: guesses.last().copied().into_iter().collect(),
            start: position,
            blocks: blocks.clone(),
            slot: *slot,
        }
    }
}

impl DraftChunk {
    /// The rows of the step that hold.
    fn rows(&self) -> std::ops::Range<u32> {
        self.first_row..self.first_row + self.chunk.tokens.len() as u32
    }
}

/// The MTP layer over `chunks`; row by row `hidden` is the state that each token follows.
fn forward(
    device: &Device,
    mtp: &Mtp,
    kv: &mut KvCache,
    chunks: &[StepChunk],
    hidden: &Tensor,
) -> Result<Tensor, EngineError> {
    let batch = batch_of(device, kv.block_size(), chunks)?;
    Ok(mtp.forward(&mut StepContext::new(device), 0, &batch, hidden, kv)?)
}

/// The token with the largest logit of each row; `None` where there is no distribution.
fn most_probable(logits: &Tensor) -> Result<Vec<Option<u32>>, EngineError> {
    let mut batch = SampleBatch::default();
    (0..logits.dim(0)).for_each(|_| batch.push(SampleParams::default(), &[]));
    let choices = ops::sample(logits, &batch)?.read()?;
    let token = |choice| match choice {
        Choice::Token { id, .. } => Some(id),
        Choice::NoDistribution { .. } => None,
    };
    Ok(choices.into_iter().map(token).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use comm::Solo;
    use testkit::Fixture;

    use super::*;
    use crate::step::StepInput;
    use crate::{Drafter, Engine, EngineOptions, Rank, Speculation};

    const BLOCKS: u32 = 8;

    /// V4 with its MTP layer, over a cache in which nothing may be read that nobody wrote.
    fn engine() -> Arc<Engine> {
        let checkpoint = Fixture::open("deepseek_v4").checkpoint();
        let model = models::load(&checkpoint, &Device::Cpu, Arc::new(Solo), &mut |_| {}).unwrap();
        let speculation = Some(Speculation { drafter: Drafter::Mtp, num_tokens: 3 });
        let options =
            EngineOptions { speculation, context_len: Some(128), block_size: 4, ..Default::default() };
        let options = EngineOptions { poison_cache: true, ..options };
        Engine::new(vec![Rank::solo(model, Device::Cpu)], &options).unwrap()
    }

    /// A step over `tokens` but the last in a state slot, and what is guessed behind that one. `moves` has the copies of
    /// states ahead of it, those from snapshots, and those to snapshots behind it.
    fn guesses(
        engine: &Engine,
        tokens: &[u32],
        (start, slot): (usize, u32),
        moves: [&[(u32, u32)]; 3],
    ) -> Vec<u32> {
        let (tokens, followers) = (&tokens[..tokens.len() - 1], &tokens[1..]);
        let chunk = |tokens: &[u32]| StepChunk {
            tokens: tokens.to_vec(),
            start,
            blocks: (0..BLOCKS).collect(),
            slot: Some(slot),
        };
        let [state_copies, state_restores, state_saves] = moves.map(<[_]>::to_vec);
        let step = StepInput {
            chunks: vec![chunk(tokens)],
            logit_rows: vec![tokens.len() as u32 - 1],
            state_copies,
            state_restores,
            state_saves: state_saves.clone(),
            ..Default::default()
        };
        engine.step(&mut StepContext::new(engine.device()), &Arc::new(step), |_| ()).unwrap();
        let chunks = vec![DraftChunk { chunk: chunk(followers), first_row: 0, count: 3 }];
        engine.draft(DraftInput { chunks, state_saves }).unwrap().remove(0)
    }

    /// The layer's window goes wherever the main model's state goes.
    #[test]
    fn the_layers_state_is_copied_saved_and_restored() {
        let engine = engine();
        let prompt: Vec<u32> = (0..21).map(|i| i * 89 % 251).collect();
        let expected = guesses(&engine, &prompt, (0, 0), [&[]; 3]);
        assert_eq!(expected.len(), 3);
        let (begin, rest) = (&prompt[..17], &prompt[16..]);
        guesses(&engine, begin, (0, 1), [&[], &[], &[(1, 2)]]);
        for (slot, [copies, restores]) in [(3, [&[(1, 3)][..], &[]]), (4, [&[], &[(2, 4)]])] {
            let found = guesses(&engine, rest, (16, slot), [copies, restores, &[]]);
            assert_eq!(found, expected, "in slot {slot}");
        }
    }
}
