//! [`RecordedDecode`]: decode steps that a device has recorded, one for each size of batch, and replays.
//!
//! A decode step is hundreds of launches of a few microseconds each; replayed as one graph they cost one. The inputs
//! lie in memory that is kept and rewritten before every replay. A batch smaller than its bucket is filled up with rows
//! that write to a block of the cache that no sequence owns.

use std::collections::BTreeMap;

use comm::Communicator;
use kernels::{Device, Recording, Tensor};
use models::{Batch, KvCache, Model, StepContext};

use crate::EngineError;
use crate::ranks::ask_group;

/// Sizes of batch that are recorded; a larger batch runs in the ordinary way.
const BUCKETS: [usize; 13] = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256];

/// One sequence's part of a decode step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecodeRow<'a> {
    /// Its new token.
    pub(crate) token: u32,
    /// The token's position.
    pub(crate) position: u32,
    /// The sequence's block table, with room for the token.
    pub(crate) blocks: &'a [u32],
}

/// The recordings of one rank.
#[derive(Debug)]
pub(crate) struct RecordedDecode {
    block_size: usize,
    /// Blocks of the longest sequence: the width of every recorded block table.
    max_blocks: usize,
    /// The block that fill-up rows write to.
    spare_block: u32,
    buckets: BTreeMap<usize, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    batch: Batch,
    recording: Recording<Tensor>,
}

impl RecordedDecode {
    /// Nothing recorded yet. `spare_block` belongs to no sequence.
    pub(crate) fn new(block_size: usize, max_blocks: usize, spare_block: u32) -> Self {
        Self { block_size, max_blocks, spare_block, buckets: BTreeMap::new() }
    }

    /// What `read` makes of the logits of one decode step, or `None` where this device does not record a step of this
    /// size. Their rows past those of `rows` mean nothing.
    ///
    /// # Errors
    /// As a forward, and those of `read`. After an error nothing stays recorded for this size.
    pub(crate) fn step<R>(
        &mut self,
        device: &Device,
        comm: &dyn Communicator,
        model: &dyn Model,
        kv: &mut KvCache,
        rows: &[DecodeRow<'_>],
        read: &mut impl FnMut(&Tensor) -> Result<R, EngineError>,
    ) -> Result<Option<R>, EngineError> {
        let Some(&size) = BUCKETS.iter().find(|&&size| size >= rows.len()) else {
            return Ok(None);
        };
        let bucket = match self.buckets.remove(&size) {
            Some(mut bucket) => {
                self.write(&mut bucket.batch, size, rows)?;
                bucket
            }
            None => match self.record(size, device, model, kv, rows)? {
                Some(bucket) => bucket,
                None => return Ok(None),
            },
        };
        // Read before anybody can step again: the next replay writes the same memory.
        let logits = bucket.recording.replay()?;
        ask_group(comm)?;
        let result = read(logits)?;
        self.buckets.insert(size, bucket);
        Ok(Some(result))
    }

    fn record(
        &self,
        size: usize,
        device: &Device,
        model: &dyn Model,
        kv: &mut KvCache,
        rows: &[DecodeRow<'_>],
    ) -> Result<Option<Bucket>, EngineError> {
        let mut batch = Batch::resident(device, self.block_size, size, self.max_blocks)?;
        self.write(&mut batch, size, rows)?;
        let recording = device.record(|| {
            let hidden = model.forward(&mut StepContext::new(device), &batch, kv)?;
            Ok::<_, EngineError>(model.logits(&hidden)?)
        })?;
        Ok(recording.map(|recording| Bucket { batch, recording }))
    }

    /// Makes `batch` the step of `rows`, filled up to `size`.
    fn write(&self, batch: &mut Batch, size: usize, rows: &[DecodeRow<'_>]) -> Result<(), EngineError> {
        let spare = [self.spare_block];
        let fill = DecodeRow { token: 0, position: 0, blocks: &spare };
        let all = || rows.iter().copied().chain(std::iter::repeat(fill)).take(size);
        let tokens: Vec<u32> = all().map(|row| row.token).collect();
        let positions: Vec<u32> = all().map(|row| row.position).collect();
        let sequences: Vec<_> = all().map(|row| (1, row.position as usize + 1, row.blocks)).collect();
        Ok(batch.rewrite(&tokens, &positions, &sequences)?)
    }
}
