//! [`RecordedDecode`]: decode steps that a device has recorded, one for each size of batch, and replays.
//!
//! A decode step is hundreds of launches of a few microseconds each; replayed as one graph they cost one. The inputs
//! lie in memory that is kept and rewritten before every replay; what a step gives lies in memory of all recordings, since
//! it is read before the next one. A step has one row for each sequence, and where tokens are guessed one more for each
//! guess. A batch smaller than its bucket is filled up with sequences whose rows write to a block of the cache that no
//! other owns, and to a state slot that none has.

use std::collections::BTreeMap;

use comm::Communicator;
use kernels::{Device, Recording, Tensor};
use models::{Batch, KvCache, Model, StepContext};

use crate::EngineError;
use crate::ranks::ask_group;
use crate::step::StepChunk;

/// Sequences of a step that is recorded; a larger batch runs in the ordinary way.
const BUCKETS: [usize; 13] = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256];

/// Most rows of a step that is recorded: a larger one has work enough to hide its launches, and its logits are large.
const MAX_ROWS: usize = 256;

/// The recordings of one rank.
#[derive(Debug)]
pub(crate) struct RecordedDecode {
    shape: Shape,
    /// The block that fill-up rows write to.
    spare_block: u32,
    /// The state slot that they write to.
    spare_slot: u32,
    buckets: BTreeMap<Size, Bucket>,
    /// Made with the first recording, which knows the widths.
    kept: Option<Kept>,
}

/// What all recordings of an engine have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) block_size: usize,
    /// Blocks of the longest sequence: the width of every recorded block table.
    pub(crate) max_blocks: usize,
    /// Rows of a sequence whose guesses are checked: its newest token, and as many guesses as there may be.
    pub(crate) verify_rows: usize,
    /// Rows of the largest step that is recorded.
    pub(crate) max_rows: usize,
    /// Whether hidden states are kept beside the logits, for an MTP layer to start from.
    pub(crate) keeps_hidden: bool,
}

/// The size of a recorded step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Size {
    sequences: usize,
    rows: usize,
}

#[derive(Debug)]
struct Bucket {
    batch: Batch,
    recording: Recording<()>,
}

/// What a replayed step gives, in memory that is no step's scratch, `R` being the rows of the largest. Those past the rows
/// of the step mean nothing.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// `[R, V]`.
    pub(crate) logits: Tensor,
    /// What the model's forward returned, `[R, W]`, if it is wanted.
    pub(crate) hidden: Option<Tensor>,
}

impl RecordedDecode {
    /// Nothing recorded yet. The spare block and state slot belong to no sequence.
    pub(crate) fn new(shape: Shape, [spare_block, spare_slot]: [u32; 2]) -> Self {
        Self { shape, spare_block, spare_slot, buckets: BTreeMap::new(), kept: None }
    }

    /// What `read` makes of one step over `chunks` that scores all its rows, or `None` where this device does not record a
    /// step of this size.
    ///
    /// # Errors
    /// As a forward, and those of `read`. After an error nothing stays recorded for this size.
    pub(crate) fn step<R>(
        &mut self,
        device: &Device,
        comm: &dyn Communicator,
        model: &dyn Model,
        kv: &mut KvCache,
        chunks: &[StepChunk],
        read: &mut impl FnMut(&Kept) -> Result<R, EngineError>,
    ) -> Result<Option<R>, EngineError> {
        let Some(size) = self.shape.size(chunks) else {
            return Ok(None);
        };
        let bucket = match self.buckets.remove(&size) {
            Some(mut bucket) => {
                self.write(&mut bucket.batch, size, chunks)?;
                bucket
            }
            None => match self.record(size, device, model, kv, chunks)? {
                Some(bucket) => bucket,
                None => return Ok(None),
            },
        };
        // Read before anybody can step again: the next replay writes the same memory.
        bucket.recording.replay()?;
        ask_group(comm)?;
        let result = self.kept.as_ref().map(read).transpose()?;
        self.buckets.insert(size, bucket);
        Ok(result)
    }

    fn record(
        &mut self,
        size: Size,
        device: &Device,
        model: &dyn Model,
        kv: &mut KvCache,
        chunks: &[StepChunk],
    ) -> Result<Option<Bucket>, EngineError> {
        let Shape { block_size, max_blocks, max_rows, keeps_hidden, .. } = self.shape;
        let mut batch = Batch::resident(device, block_size, [size.sequences, size.rows], max_blocks)?;
        self.write(&mut batch, size, chunks)?;
        let kept = &mut self.kept;
        let recording = device.record(|| {
            let hidden = model.forward(&mut StepContext::new(device), &batch, kv)?;
            let logits = model.logits(&hidden)?;
            let hidden = keeps_hidden.then_some(&hidden);
            let kept = match kept {
                Some(kept) => kept,
                // The first run, which is not recorded yet.
                None => kept.insert(Kept {
                    logits: room_for(device, max_rows, &logits)?,
                    hidden: hidden.map(|hidden| room_for(device, max_rows, hidden)).transpose()?,
                }),
            };
            if let Some((kept, hidden)) = kept.hidden.as_mut().zip(hidden) {
                kept.write_rows(hidden)?;
            }
            Ok::<_, EngineError>(kept.logits.write_rows(&logits)?)
        })?;
        Ok(recording.map(|recording| Bucket { batch, recording }))
    }

    /// Makes `batch` the step over `chunks`, filled up to `size`.
    fn write(&self, batch: &mut Batch, size: Size, chunks: &[StepChunk]) -> Result<(), EngineError> {
        let fill = |rows: usize| StepChunk {
            tokens: vec![0; rows],
            start: 0,
            blocks: vec![self.spare_block; rows.div_ceil(self.shape.block_size)],
            slot: Some(self.spare_slot),
        };
        let fills: Vec<StepChunk> = size.fills(chunks).map(fill).collect();
        let all = || chunks.iter().chain(&fills);
        let tokens: Vec<u32> = all().flat_map(|chunk| chunk.tokens.iter().copied()).collect();
        let positions: Vec<u32> = all().flat_map(|chunk| chunk.start as u32..chunk.end() as u32).collect();
        let sequences: Vec<_> =
            all().map(|chunk| (chunk.tokens.len(), chunk.end(), &chunk.blocks[..])).collect();
        // All chunks have one, or only those that fill up.
        let slots: Option<Vec<u32>> = all().map(|chunk| chunk.slot).collect();
        Ok(batch.rewrite(&tokens, &positions, &sequences, slots.as_deref())?)
    }
}

impl Shape {
    /// The size of the smallest recorded step that has room for `chunks`.
    fn size(&self, chunks: &[StepChunk]) -> Option<Size> {
        if chunks.is_empty() || chunks.iter().any(|chunk| chunk.tokens.len() > self.verify_rows) {
            return None;
        }
        let rows = chunk_rows(chunks);
        let longest = self.max_blocks * self.block_size;
        let fits = |size: &Size| {
            // Rows that are left over need a sequence that they belong to, and each such sequence a row.
            match size.sequences.checked_sub(chunks.len()) {
                Some(0) => rows == size.rows,
                Some(fills) => rows + fills <= size.rows && size.fills(chunks).all(|rows| rows <= longest),
                None => false,
            }
        };
        sizes(self.verify_rows)
            .filter(|size| size.rows <= self.max_rows)
            .filter(fits)
            .min_by_key(|size| (size.rows, size.sequences))
    }
}

/// The sizes of recorded steps whose sequences have so many rows at most.
fn sizes(verify_rows: usize) -> impl Iterator<Item = Size> {
    let of = move |&sequences: &usize| {
        (1..=verify_rows).map(move |each| Size { sequences, rows: sequences * each })
    };
    BUCKETS.iter().flat_map(of).filter(|size| size.rows <= MAX_ROWS)
}

/// Rows of the largest step that at most `sequences` sequences take, with room for those that fill up.
pub(crate) fn max_rows(sequences: usize, verify_rows: usize) -> usize {
    let above =
        BUCKETS.iter().copied().find(|&size| size > sequences || verify_rows == 1 && size == sequences);
    let largest = above.unwrap_or(usize::MAX);
    sizes(verify_rows).filter(|size| size.sequences <= largest).map(|size| size.rows).max().unwrap_or(0)
}

impl Size {
    /// The rows of each sequence that fills up a step over `chunks`.
    fn fills(self, chunks: &[StepChunk]) -> impl Iterator<Item = usize> + use<> {
        let (count, rows) = (self.sequences - chunks.len(), self.rows - chunk_rows(chunks));
        (0..count).map(move |i| rows * (i + 1) / count - rows * i / count)
    }
}

fn chunk_rows(chunks: &[StepChunk]) -> usize {
    chunks.iter().map(|chunk| chunk.tokens.len()).sum()
}

/// Kept memory for `rows` rows like those of this tensor.
fn room_for(device: &Device, rows: usize, tensor: &Tensor) -> Result<Tensor, EngineError> {
    let shape = [&[rows], &tensor.shape()[1..]].concat();
    Ok(Tensor::zeros(device, tensor.dtype(), &shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape =
        Shape { block_size: 4, max_blocks: 3, verify_rows: 3, max_rows: MAX_ROWS, keeps_hidden: false };

    /// Chunks of so many tokens each.
    fn chunks(rows: &[usize]) -> Vec<StepChunk> {
        let chunk =
            |&rows: &usize| StepChunk { tokens: vec![1; rows], start: 5, blocks: vec![7; 3], slot: None };
        rows.iter().map(chunk).collect()
    }

    #[test]
    fn the_plan_knows_of_every_size_that_a_step_may_take() {
        assert_eq!(max_rows(1, 1), 1);
        assert_eq!(max_rows(5, 1), 8);
        assert_eq!(max_rows(16, 1), 16);
        assert_eq!(max_rows(1000, 1), 256);
        for (count, most) in [(1, 3), (3, 2), (4, 3)] {
            let shape = Shape { verify_rows: most, ..SHAPE };
            let met = (0..most.pow(count)).filter_map(|lens| {
                let rows: Vec<usize> = (0..count).map(|i| 1 + lens / most.pow(i) % most).collect();
                shape.size(&chunks(&rows))
            });
            let rows = met.map(|size| size.rows).max().unwrap_or(0);
            assert!(rows > 0 && rows <= max_rows(count as usize, most), "{rows} of {count} x {most}");
        }
        // One more sequence than planned for: its step is not recorded.
        let small = Shape { verify_rows: 1, max_rows: max_rows(4, 1), ..SHAPE };
        assert_eq!(small.size(&chunks(&[1; 4])), Some(Size { sequences: 4, rows: 4 }));
        assert_eq!(small.size(&chunks(&[1; 5])), None);
    }

    #[test]
    fn a_step_takes_the_smallest_size_with_room() {
        for (rows, sequences, total) in [
            (&[1][..], 1, 1),
            (&[1, 1, 1], 4, 4),
            (&[3], 1, 3),
            (&[3, 3], 2, 6),
            (&[2], 1, 2),
            // A row is left over, and needs a sequence.
            (&[3, 2], 4, 8),
            (&[1, 2, 1, 3], 8, 16),
        ] {
            let chunks = chunks(rows);
            let size = SHAPE.size(&chunks).unwrap();
            assert_eq!(size, Size { sequences, rows: total }, "{rows:?}");
            let fills: Vec<usize> = size.fills(&chunks).collect();
            assert_eq!(fills.len(), sequences - rows.len(), "{rows:?}");
            assert_eq!(fills.iter().sum::<usize>(), total - rows.iter().sum::<usize>(), "{rows:?}");
            assert!(fills.iter().all(|rows| (1..=12).contains(rows)), "{rows:?}: {fills:?}");
        }
        // More tokens than guesses explain, and more rows than any recorded step has.
        assert_eq!(SHAPE.size(&chunks(&[4])), None);
        assert_eq!(SHAPE.size(&chunks(&[1; 257])), None);
        assert_eq!(SHAPE.size(&chunks(&[3; 86])), None);
        assert_eq!(SHAPE.size(&chunks(&[3; 64])), Some(Size { sequences: 64, rows: 192 }));
        assert_eq!(SHAPE.size(&[]), None);
        // Sequences of one key each cannot have all the rows that are left over.
        let narrow = Shape { block_size: 1, max_blocks: 1, ..SHAPE };
        assert_eq!(narrow.size(&chunks(&[2, 1])), None);
    }
}
