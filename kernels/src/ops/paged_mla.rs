//! Attention over the paged latent cache, where all heads read one shared row per token.

use crate::cpu::{self, Attention, CacheRows, Level, Sequence};
use crate::ops::PagedBatch;
use crate::{DType, Fp8Row, KernelError, PackedRow, Result, Tensor};

/// Attention of absorbed queries `q` `[T, H, C + R]` over the latent `cache`: softmax of `q . row * scale` in `F32` over
/// the visible rows, then the weighted sum of their first `C` columns. The result is `[T, H, C]`, in the dtype of the
/// device's activations; a query that sees no key gets zeros.
///
/// `cache` is `[blocks, block_size, C + R]` in `F32` or `BF16`, or `[blocks, block_size, bytes]` in `U8` of packed
/// [`Fp8Row`]s. `indices` `[T, K]` (`U32`) narrows what a query sees to the keys at the listed positions of its
/// sequence, in any order; `u32::MAX` entries are unused (DeepSeek sparse attention, V3.2).
pub fn paged_mla(
    q: &Tensor,
    cache: &Tensor,
    batch: &PagedBatch,
    indices: Option<&Tensor>,
    scale: f32,
    kv_lora_rank: usize,
) -> Result<Tensor> {
    const OP: &str = "paged_mla";
    let [tokens, heads, width] = q.dims(OP, "q", "[T, H, C + R]")?;
    if tokens != batch.num_tokens() || kv_lora_rank > width {
        let expected = format!("[{}, H, at least {kv_lora_rank}]", batch.num_tokens());
        return Err(KernelError::shape(OP, "q", expected, q.shape()));
    }
    let packed = Fp8Row { kv_lora_rank, qk_rope_head_dim: width - kv_lora_rank };
    let [blocks, block_size, row] = cache.dims(OP, "cache", "[blocks, block_size, C + R]")?;
    let expected = if cache.dtype() == DType::U8 { packed.bytes() } else { width };
    if row != expected || block_size != batch.block_size {
        let expected = format!("[blocks, {}, {expected}]", batch.block_size);
        return Err(KernelError::shape(OP, "cache", expected, cache.shape()));
    }
    batch.check(OP, &cache.device(), blocks)?;
    q.expect_device(&cache.device(), OP, "q")?;
    if let Some(lists) = indices {
        lists.expect_device(&cache.device(), OP, "indices")?;
        let [rows, _] = lists.dims(OP, "indices", "[T, K]")?;
        if rows != tokens {
            return Err(KernelError::shape(OP, "indices", format!("[{tokens}, K]"), lists.shape()));
        }
        lists.expect_dtype(DType::U32, "U32", OP, "indices")?;
    }
    #[cfg(feature = "cuda-host")]
    if cache.is_cuda() {
        let call = crate::cuda::paged_attention::PagedAttention {
            op: OP,
            q,
            cache,
            packed: Some(packed),
            batch,
            indices,
            heads,
            kv_heads: 1,
            key_dim: width,
            value_dim: kv_lora_rank,
            shares_values: true,
            scale,
        };
        return call.run();
    }
    let sequences = batch.sequences(OP, blocks)?;
    let lists = indices.map(|lists| listed_rows(OP, lists, &sequences, block_size)).transpose()?;
    let (sequences, block_size) = match &lists {
        Some(lists) => (one_per_query(lists), 1),
        None => (sequences, block_size),
    };
    let rows = match cache.dtype() {
        DType::U8 => CacheRows::Packed(cache.bytes(), PackedRow::Latent(packed)),
        _ => batch.cache_rows(OP, cache)?,
    };
    let args = Attention {
        q: q.f32s(OP, "q")?,
        cache: rows,
        width,
        block_size,
        sequences,
        heads,
        kv_heads: 1,
        key_dim: width,
        value_start: 0,
        value_dim: kv_lora_rank,
        scale,
        sinks: None,
    };
    batch.count_attention(args.rows_read());
    let mut out = Tensor::output(&cache.device(), DType::F32, &[tokens, heads, kv_lora_rank])?;
    cpu::paged_attention(Level::detect(), &args, out.f32s_mut(OP, "out")?);
    Ok(out)
}

/// One sequence per query, whose keys are the listed rows: blocks of a single row.
fn one_per_query(lists: &[Vec<u32>]) -> Vec<Sequence<'_>> {
    let sequence = |(t, rows): (usize, &'_ Vec<u32>)| (t..t + 1, rows.len());
    let queries = lists.iter().enumerate().map(sequence).zip(lists);
    queries.map(|((queries, context), blocks)| Sequence { queries, context, blocks }).collect()
}

/// The cache rows that each query's list names.
fn listed_rows(
    op: &'static str,
    indices: &Tensor,
    sequences: &[Sequence<'_>],
    block_size: usize,
) -> Result<Vec<Vec<u32>>> {
    let (lists, topk) = (indices.u32s(op, "indices")?, indices.dim(1));
    let mut rows = Vec::with_capacity(indices.dim(0));
    for sequence in sequences {
        for t in sequence.queries.clone() {
            let visible = sequence.context - (sequence.queries.end - t) + 1;
            let used = lists[t * topk..][..topk].iter().filter(|&&position| position != u32::MAX);
            let row = |&position: &u32| {
                let i = position as usize;
                if i >= visible {
                    let expected = format!("positions below {visible} for token {t}");
                    return Err(KernelError::value(op, "indices", expected, position));
                }
                Ok(sequence.blocks[i / block_size] * block_size as u32 + (i % block_size) as u32)
            };
            rows.push(used.map(row).collect::<Result<_>>()?);
        }
    }
    Ok(rows)
}
