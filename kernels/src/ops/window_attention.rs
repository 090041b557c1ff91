//! Attention over the last tokens and over compressed entries of the earlier ones (V4): one softmax over both, with a
//! sink; a row is key and value at once, and all heads share it.

use crate::cpu::{self, EntryRows, Level, WindowAttention, WindowRows};
use crate::ops::PagedBatch;
use crate::ops::paged::float_rows;
use crate::{DType, KernelError, Result, Tensor};

/// The compressed entries that the queries of a step may see besides their windows.
#[derive(Debug, Clone, Copy)]
pub struct CompressedEntries<'a> {
    /// `[blocks, block_size / m, D]`: entry `w` stands for tokens `w m .. w m + m`, and a query at position `t` may see it
    /// from `t = w m + m - 1` on.
    pub cache: &'a Tensor,
    /// `[T, K]` (`U32`): the entries that each query attends to, `u32::MAX` for unused places; `None` for all it may see.
    pub indices: Option<&'a Tensor>,
}

/// Attention of `q` `[T, H, D]`, `F32`: softmax of `q . row * scale` over the rows a query sees and over the head's sink
/// `[H]`, which has no value; the result is `[T, H, D]`, `F32`.
///
/// A query sees the rows of the last `R` positions, its own included, and the listed `entries`. Rows of the step's own
/// tokens are `fresh` `[T, D]`, those of earlier ones lie in `ring` `[slots, R, D]` (see [`crate::ops::ring_write`]); both
/// are of one dtype, `F32` or `BF16`, as are the entries.
pub fn window_attention(
    q: &Tensor,
    [fresh, ring]: [&Tensor; 2],
    entries: Option<CompressedEntries<'_>>,
    sinks: &Tensor,
    batch: &PagedBatch,
    scale: f32,
) -> Result<Tensor> {
    const OP: &str = "window_attention";
    let tokens = batch.num_tokens();
    let [rows, heads, dim] = q.dims(OP, "q", "[T, H, D]")?;
    if rows != tokens {
        return Err(KernelError::shape(OP, "q", format!("[{tokens}, H, D]"), q.shape()));
    }
    let [slots, window, width] = ring.dims(OP, "ring", "[slots, R, D]")?;
    if width != dim || window == 0 {
        return Err(KernelError::shape(OP, "ring", format!("[slots, R, {dim}]"), ring.shape()));
    }
    for (arg, tensor, shape) in [("fresh", fresh, vec![tokens, dim]), ("sinks", sinks, vec![heads])] {
        if tensor.shape() != shape {
            return Err(KernelError::shape(OP, arg, format!("{shape:?}"), tensor.shape()));
        }
    }
    if fresh.dtype() != ring.dtype() {
        let found = fresh.dtype();
        return Err(KernelError::DType { op: OP, arg: "fresh", expected: "the dtype of the ring", found });
    }
    if let Some(entries) = &entries {
        check_entries(OP, entries, [tokens, dim], batch)?;
    }
    #[cfg(feature = "cuda-host")]
    if q.is_cuda() {
        return crate::cuda::window_attention::window_attention(
            q,
            [fresh, ring],
            entries,
            sinks,
            batch,
            scale,
        );
    }
    let blocks = entries.map_or(usize::MAX, |entries| entries.cache.dim(0));
    let entries = entries.map(|entries| entry_rows(OP, &entries, batch)).transpose()?;
    let args = WindowAttention {
        q: q.f32s(OP, "q")?,
        rows: WindowRows {
            fresh: float_rows(OP, "fresh", fresh)?,
            ring: float_rows(OP, "ring", ring)?,
            window,
        },
        entries,
        sinks: sinks.f32s(OP, "sinks")?,
        sequences: batch.stateful(OP, slots, blocks)?,
        heads,
        dim,
        scale,
    };
    args.check_entries().map_err(|(visible, found)| {
        KernelError::value(OP, "indices", format!("entries below {visible}"), found)
    })?;
    let mut out = Tensor::output(&ring.device(), DType::F32, &[tokens, heads, dim])?;
    let read = cpu::window_attention(Level::detect(), &args, out.f32s_mut(OP, "out")?);
    batch.count_attention(read);
    Ok(out)
}

fn check_entries(
    op: &'static str,
    entries: &CompressedEntries<'_>,
    [tokens, dim]: [usize; 2],
    batch: &PagedBatch,
) -> Result<()> {
    let [_, rows, width] = entries.cache.dims(op, "cache", "[blocks, block_size / m, D]")?;
    if width != dim || rows == 0 || !batch.block_size.is_multiple_of(rows) {
        let expected = format!("[blocks, a divisor of {}, {dim}]", batch.block_size);
        return Err(KernelError::shape(op, "cache", expected, entries.cache.shape()));
    }
    let Some(indices) = entries.indices else { return Ok(()) };
    let [count, _] = indices.dims(op, "indices", "[T, K]")?;
    if count != tokens {
        return Err(KernelError::shape(op, "indices", format!("[{tokens}, K]"), indices.shape()));
    }
    indices.expect_dtype(DType::U32, "U32", op, "indices")?;
    indices.expect_device(&entries.cache.device(), op, "indices")
}

/// The entries on the CPU, once checked.
fn entry_rows<'a>(
    op: &'static str,
    entries: &CompressedEntries<'a>,
    batch: &PagedBatch,
) -> Result<EntryRows<'a>> {
    let rows = entries.cache.dim(1);
    let lists = match entries.indices {
        Some(indices) => Some((indices.u32s(op, "indices")?, indices.dim(1))),
        None => None,
    };
    Ok(EntryRows {
        cache: float_rows(op, "cache", entries.cache)?,
        rows_per_block: rows,
        ratio: batch.block_size / rows,
        lists,
    })
}
