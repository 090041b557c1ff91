//! Launches of `cuda/state_ring.cu`, and the lists of a step that kernels with state take ([`stateful`]).

use bytemuck::{Pod, Zeroable};

use crate::cuda::elementwise::{rows_of, unit};
use crate::cuda::{Args, CudaDevice};
use crate::ops::PagedBatch;
use crate::{KernelError, Result, Tensor};

/// `StepSizes` of `cuda/include/sequence_state.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct StepSizes {
    tokens: u32,
    sequences: u32,
    blocks: u32,
    block_size: u32,
    table_width: u32,
    slots: u32,
}

/// `args` with the lists of `batch`, the fault record and the sizes, as all kernels with state take them. Rings have
/// `slots` slots, the paged cache `blocks` blocks.
pub(super) fn stateful(
    op: &'static str,
    args: Args,
    device: &CudaDevice,
    batch: &PagedBatch,
    [slots, blocks]: [usize; 2],
) -> Result<Args> {
    let Some(list) = &batch.state_slots else {
        return Err(KernelError::value(op, "state_slots", "a slot for every sequence", "none"));
    };
    let sizes = StepSizes {
        tokens: batch.num_tokens() as u32,
        sequences: batch.num_sequences() as u32,
        blocks: blocks as u32,
        block_size: batch.block_size as u32,
        table_width: batch.block_tables.dim(1) as u32,
        slots: slots as u32,
    };
    let args = args.tensor(&batch.query_start)?.tensor(&batch.context_lens)?;
    Ok(args.tensor(&batch.block_tables)?.tensor(list)?.fault(device).value(sizes))
}

/// See [`crate::ops::ring_write`], which has checked shapes and dtypes.
pub(crate) fn ring_write(ring: &mut Tensor, rows: &Tensor, batch: &PagedBatch) -> Result<()> {
    const OP: &str = "ring_write";
    let [slots, length, width] = ring.dims(OP, "ring", "[slots, R, W]")?;
    if rows.is_empty() {
        return Ok(());
    }
    let device = ring.cuda(OP)?.clone();
    let (suffix, bytes) = unit(&[width * ring.dtype().size()]);
    let units = width * ring.dtype().size() / bytes;
    let args = Args::new().tensor(rows)?.output(ring)?;
    let args = stateful(OP, args, &device, batch, [slots, 0])?.value(length as u32).value(units as u32);
    device.launch("state_ring", &format!("ring_write_{suffix}"), rows_of(rows.dim(0), units), args)
}
