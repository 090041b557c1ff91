//! [`Batch`]: the device tensors of one step.

use kernels::ops::PagedBatch;
use kernels::{DType, Device, Tensor};

use crate::{ModelError, Result};

/// The `T` new tokens of one step, over any number of sequences, and where their keys live.
///
/// Prefill, chunked prefill and decode are the same thing here: a sequence contributes one token or many.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[T]`, `U32`: token ids, sequence after sequence.
    pub token_ids: Tensor,
    /// `[T]`, `U32`: position of each token within its sequence, from 0.
    pub positions: Tensor,
    /// The visible keys of every token and the cache row it writes.
    pub paged: PagedBatch,
}

impl Batch {
    /// A batch from host ids and positions, on the device of `paged`.
    ///
    /// # Errors
    /// [`ModelError::Step`] unless there is one id and one position per new token of `paged`.
    pub fn new(token_ids: &[u32], positions: &[u32], paged: PagedBatch) -> Result<Self> {
        let tokens = paged.num_tokens();
        for (arg, found) in [("token_ids", token_ids.len()), ("positions", positions.len())] {
            if found != tokens {
                return Err(ModelError::step(arg, format!("{tokens} entries"), found));
            }
        }
        let device = paged.slot_mapping.device();
        Ok(Self {
            token_ids: Tensor::from_u32(&device, &[tokens], token_ids)?,
            positions: Tensor::from_u32(&device, &[tokens], positions)?,
            paged,
        })
    }

    /// The batch of a step to be recorded: so many sequences and new tokens in all, and tables of `width` blocks, in memory
    /// that is kept. Write it with [`Batch::rewrite`] before each use.
    ///
    /// # Errors
    /// If device memory is spent.
    pub fn resident(
        device: &Device,
        block_size: usize,
        [sequences, tokens]: [usize; 2],
        width: usize,
    ) -> Result<Self> {
        Ok(Self {
            token_ids: Tensor::zeros(device, DType::U32, &[tokens])?,
            positions: Tensor::zeros(device, DType::U32, &[tokens])?,
            paged: PagedBatch::resident(device, block_size, [sequences, tokens], width)?,
        })
    }

    /// Puts another step in place of this one, of the same number of sequences and new tokens; `sequences` and
    /// `state_slots` as in [`PagedBatch::rewrite`].
    ///
    /// # Errors
    /// Another number of tokens, sequences or slots, and what [`PagedBatch::new`] refuses.
    pub fn rewrite(
        &mut self,
        token_ids: &[u32],
        positions: &[u32],
        sequences: &[(usize, usize, &[u32])],
        state_slots: Option<&[u32]>,
    ) -> Result<()> {
        self.token_ids.write_u32(token_ids)?;
        self.positions.write_u32(positions)?;
        Ok(self.paged.rewrite(sequences, state_slots)?)
    }

    /// New tokens `T`.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Where the tensors live.
    pub fn device(&self) -> Device {
        self.token_ids.device()
    }
}
