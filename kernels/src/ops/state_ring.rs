//! State rings: the last rows of every sequence, for layers that look back a fixed number of tokens.
//!
//! A ring is `[slots, R, W]`. A sequence owns one slot ([`PagedBatch::state_slots`]), and the row of position `p` lies at
//! `p % R` of it, so that a slot always holds the last `R` positions. Within a step the rows of its own tokens are
//! read where they were computed and those of earlier tokens from the ring; [`ring_write`] stores them at the end of
//! the layer, which makes a prompt in one step, in chunks or token by token the same. A row that was never written is
//! never read, so a slot needs no clearing between sequences. A copy of a slot is [`crate::ops::copy_blocks`] on the
//! ring: that is all a snapshot takes.
//!
//! A ring may have more rows than its layer looks back. A sequence can then drop that many of the tokens it wrote last and
//! go on from the token before: what it looks back on has not been overwritten yet.

use crate::ops::PagedBatch;
use crate::{KernelError, Result, Tensor};

/// Stores the rows `[T, W]` of this step's tokens in `ring` `[slots, R, W]`, of the same dtype; of a sequence with more
/// than `R` new tokens the last `R`.
pub fn ring_write(ring: &mut Tensor, rows: &Tensor, batch: &PagedBatch) -> Result<()> {
    const OP: &str = "ring_write";
    let [slots, length, width] = ring.dims(OP, "ring", "[slots, R, W]")?;
    if rows.shape() != [batch.num_tokens(), width] {
        let expected = format!("[{}, {width}]", batch.num_tokens());
        return Err(KernelError::shape(OP, "rows", expected, rows.shape()));
    }
    if rows.dtype() != ring.dtype() {
        let found = rows.dtype();
        return Err(KernelError::DType { op: OP, arg: "rows", expected: "the dtype of the ring", found });
    }
    rows.expect_device(&ring.device(), OP, "rows")?;
    #[cfg(feature = "cuda-host")]
    if ring.is_cuda() {
        return crate::cuda::state_ring::ring_write(ring, rows, batch);
    }
    let bytes = width * ring.dtype().size();
    let sequences = batch.stateful(OP, slots, usize::MAX)?;
    let target = ring.bytes_mut(OP, "ring")?;
    for (sequence, slot) in sequences {
        let first = sequence.queries.len().saturating_sub(length);
        for i in first..sequence.queries.len() {
            let position = sequence.context - sequence.queries.len() + i;
            let from = &rows.bytes()[(sequence.queries.start + i) * bytes..][..bytes];
            target[(slot * length + position % length) * bytes..][..bytes].copy_from_slice(from);
        }
    }
    Ok(())
}
