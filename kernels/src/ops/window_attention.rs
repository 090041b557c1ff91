//! Attention over the last tokens and over compressed entries of the earlier ones (V4): one softmax over both, with a
//! sink; a row is key and value at once, and all heads share it.

use crate::cpu::{self, EntryRows, Level, WindowAttention, WindowRows};
use crate::ops::PagedBatch;
use crate::ops::shared_kv::{row_width, rows};
use crate::{DType, KernelError, Result, SharedKvRow, Tensor};

/// The rows of recent positions, and how many of them a query sees.
#[derive(Debug, Clone, Copy)]
pub struct RecentRows<'a> {
    /// Those of the step's own tokens, `[T, D]`.
    pub fresh: &'a Tensor,
    /// Those of earlier ones, `[slots, R, D]` (see [`crate::ops::ring_write`]), `R` at least `window`.
    pub ring: &'a Tensor,
    /// Positions that a query sees, its own included.
    pub window: usize,
    /// The last channels of a row, which rope turns: what packed rows do not round to FP8.
    pub qk_rope_head_dim: usize,
}

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
/// A query sees the `recent` rows of its window and the listed `entries`. All rows are of one dtype, `F32` or `BF16`, or packed
/// as bytes in `U8`: their last dimension is then that of [`SharedKvRow`]s.
pub fn window_attention(
    q: &Tensor,
    recent: RecentRows<'_>,
    entries: Option<CompressedEntries<'_>>,
    sinks: &Tensor,
    batch: &PagedBatch,
    scale: f32,
) -> Result<Tensor> {
    const OP: &str = "window_attention";
    let tokens = batch.num_tokens();
    let [queries, heads, dim] = q.dims(OP, "q", "[T, H, D]")?;
    if queries != tokens {
        return Err(KernelError::shape(OP, "q", format!("[{tokens}, H, D]"), q.shape()));
    }
    let RecentRows { fresh, ring, window, qk_rope_head_dim } = recent;
    if qk_rope_head_dim > dim {
        return Err(KernelError::value(OP, "qk_rope_head_dim", format!("at most {dim}"), qk_rope_head_dim));
    }
    let row = SharedKvRow { head_dim: dim, qk_rope_head_dim };
    let expected_width = row_width(ring.dtype(), row);
    let [slots, ring_rows, width] = ring.dims(OP, "ring", "[slots, R, D]")?;
    if window == 0 {
        return Err(KernelError::value(OP, "window", "at least 1", window));
    }
    if width != expected_width || ring_rows < window {
        let expected = format!("[slots, at least {window}, {expected_width}]");
        return Err(KernelError::shape(OP, "ring", expected, ring.shape()));
    }
    for (arg, tensor, shape) in [("fresh", fresh, vec![tokens, width]), ("sinks", sinks, vec![heads])] {
        if tensor.shape() != shape {
            return Err(KernelError::shape(OP, arg, format!("{shape:?}"), tensor.shape()));
        }
    }
    if fresh.dtype() != ring.dtype() {
        let found = fresh.dtype();
        return Err(KernelError::DType { op: OP, arg: "fresh", expected: "the dtype of the ring", found });
    }
    if let Some(entries) = &entries {
        check_entries(OP, entries, ring, batch)?;
    }
    #[cfg(feature = "cuda-host")]
    if q.is_cuda() {
        return crate::cuda::window_attention::window_attention(q, recent, entries, sinks, batch, scale);
    }
    let blocks = entries.map_or(usize::MAX, |entries| entries.cache.dim(0));
    let entries = entries.map(|entries| entry_rows(OP, &entries, row, batch)).transpose()?;
    let args = WindowAttention {
        q: q.f32s(OP, "q")?,
        rows: WindowRows {
            fresh: rows(OP, "fresh", fresh, row)?,
            ring: rows(OP, "ring", ring, row)?,
            ring_rows,
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
    ring: &Tensor,
    batch: &PagedBatch,
) -> Result<()> {
    let (tokens, row_width) = (batch.num_tokens(), ring.dim(2));
    entries.cache.expect_dtype(ring.dtype(), "the dtype of the ring", op, "cache")?;
    let [_, rows, width] = entries.cache.dims(op, "cache", "[blocks, block_size / m, D]")?;
    if width != row_width || rows == 0 || !batch.block_size.is_multiple_of(rows) {
        let expected = format!("[blocks, a divisor of {}, {row_width}]", batch.block_size);
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
    row: SharedKvRow,
    batch: &PagedBatch,
) -> Result<EntryRows<'a>> {
    let rows_per_block = entries.cache.dim(1);
    let lists = match entries.indices {
        Some(indices) => Some((indices.u32s(op, "indices")?, indices.dim(1))),
        None => None,
    };
    Ok(EntryRows {
        cache: rows(op, "cache", entries.cache, row)?,
        rows_per_block,
        ratio: batch.block_size / rows_per_block,
        lists,
    })
}
