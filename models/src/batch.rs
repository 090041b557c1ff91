//! [`Batch`]: the device tensors of one step.

use kernels::ops::PagedBatch;
use kernels::{Device, Tensor};

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

    /// New tokens `T`.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Where the tensors live.
    pub fn device(&self) -> Device {
        self.token_ids.device()
    }
}
