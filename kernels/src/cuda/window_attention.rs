//! Launches of `cuda/window_attention.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cuda::Args;
use crate::cuda::attention_plan::Shape;
use crate::ops::{CompressedEntries, PagedBatch, RecentRows};
use crate::{DType, KernelError, PackedRow, Result, SharedKvRow, Tensor};

const OP: &str = "window_attention";

/// `Window` of `cuda/window_attention.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Window {
    rows: u32,
    ring_rows: u32,
    slots: u32,
    ratio: u32,
    rows_per_block: u32,
}

/// See [`crate::ops::window_attention`], which has checked the shapes.
pub(crate) fn window_attention(
    q: &Tensor,
    recent: RecentRows<'_>,
    entries: Option<CompressedEntries<'_>>,
    sinks: &Tensor,
    batch: &PagedBatch,
    scale: f32,
) -> Result<Tensor> {
    let [tokens, heads, dim] = q.dims(OP, "q", "[T, H, D]")?;
    let RecentRows { fresh, ring, window, qk_rope_head_dim } = recent;
    let (cache, indices) = (entries.map(|e| e.cache), entries.and_then(|e| e.indices));
    let Some(slots) = &batch.state_slots else {
        return Err(KernelError::value(OP, "state_slots", "a slot for every sequence", "none"));
    };
    check(q, sinks, [Some(fresh), Some(ring), cache])?;
    let device = q.cuda(OP)?;
    let mut out = Tensor::output(&q.device(), DType::F32, &[tokens, heads, dim])?;
    if out.is_empty() {
        return Ok(out);
    }
    let rows_per_block = cache.map_or(1, |cache| cache.dim(1));
    let ratio = cache.map_or(0, |_| batch.block_size / rows_per_block);
    let context = batch.block_tables.dim(1) * batch.block_size;
    let listed = indices.map(|indices| indices.dim(1));
    let shape = Shape {
        op: OP,
        batch,
        heads,
        kv_heads: 1,
        key_dim: dim,
        value_dim: dim,
        shares_values: true,
        row: (ring.dtype(), ring.dim(2)),
        packed: Some(PackedRow::SharedKv(SharedKvRow { head_dim: dim, qk_rope_head_dim })),
        blocks: cache.map_or(0, |cache| cache.dim(0)),
        keys: window + listed.unwrap_or(context.checked_div(ratio).unwrap_or(0)),
        topk: listed.unwrap_or(0),
        by_token: true,
        scale,
    };
    let plan = shape.plan(device, &[128, 512])?;
    let sizes = shape.sizes(&plan, q.dtype())?;
    let window = Window {
        rows: window as u32,
        ring_rows: ring.dim(1) as u32,
        slots: ring.dim(0) as u32,
        ratio: ratio as u32,
        rows_per_block: rows_per_block as u32,
    };
    let [mut values, mut states] = shape.partials(&plan, &q.device())?;
    let [start, lens] = [&batch.query_start, &batch.context_lens];
    let args = Args::new().tensor(q)?.tensor(fresh)?.tensor(ring)?.optional(cache)?.optional(indices)?;
    let args = args.tensor(sinks)?.tensor(start)?.tensor(lens)?.tensor(&batch.block_tables)?.tensor(slots)?;
    let args = args.output(&mut out)?.output(&mut values)?.output(&mut states)?;
    let args = args.fault(device).value(sizes).value(window);
    device.launch(OP, &plan.instance(OP), shape.launch(&plan), args)?;
    if plan.max_splits > 1 {
        let args = Args::new().tensor(sinks)?.tensor(start)?.tensor(lens)?.output(&mut out)?;
        let args = args.tensor(&values)?.tensor(&states)?.fault(device).value(sizes).value(window);
        device.launch(OP, "window_combine", shape.combine(), args)?;
    }
    Ok(out)
}

/// Queries and sinks in single precision; all rows of keys of one dtype, on the device of the queries.
fn check(q: &Tensor, sinks: &Tensor, rows: [Option<&Tensor>; 3]) -> Result<()> {
    for (arg, tensor) in [("q", q), ("sinks", sinks)] {
        tensor.expect_dtype(DType::F32, "F32", OP, arg)?;
    }
    let dtype = rows.iter().flatten().next().map_or(DType::F32, |rows| rows.dtype());
    for (arg, tensor) in ["fresh", "ring", "cache"].into_iter().zip(rows) {
        let Some(tensor) = tensor else { continue };
        tensor.expect_device(&q.device(), OP, arg)?;
        tensor.expect_dtype(dtype, "the dtype of the ring", OP, arg)?;
    }
    Ok(())
}
