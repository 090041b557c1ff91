//! Grouped-query attention over the paged cache (MHA is the case of as many key heads as query heads).

use crate::cpu::{self, Attention, Level};
use crate::ops::PagedBatch;
use crate::{DType, KernelError, Result, Tensor};

/// Attention of `q` `[T, H, D]` over `cache` `[blocks, block_size, 2 * H_kv * D]` (rows `[k | v]`, `F32` or `BF16`);
/// query head `h` reads key head `h / (H / H_kv)`. Softmax in `F32`; the result is `[T, H * D]`.
pub fn paged_gqa(
    q: &Tensor,
    cache: &Tensor,
    batch: &PagedBatch,
    scale: f32,
    num_kv_heads: usize,
) -> Result<Tensor> {
    const OP: &str = "paged_gqa";
    let [tokens, heads, dim] = q.dims(OP, "q", "[T, H, D]")?;
    if tokens != batch.num_tokens() {
        return Err(KernelError::shape(OP, "q", format!("[{}, H, D]", batch.num_tokens()), q.shape()));
    }
    if num_kv_heads == 0 || !heads.is_multiple_of(num_kv_heads) {
        let expected = format!("a divisor of {heads} query heads");
        return Err(KernelError::value(OP, "num_kv_heads", expected, num_kv_heads));
    }
    let [blocks, block_size, row] = cache.dims(OP, "cache", "[blocks, block_size, 2 * H_kv * D]")?;
    if row != 2 * num_kv_heads * dim || block_size != batch.block_size {
        let expected = format!("[blocks, {}, {}]", batch.block_size, 2 * num_kv_heads * dim);
        return Err(KernelError::shape(OP, "cache", expected, cache.shape()));
    }
    batch.check(OP, &cache.device(), blocks)?;
    q.expect_device(&cache.device(), OP, "q")?;
    #[cfg(feature = "cuda-host")]
    if cache.is_cuda() {
        let call = crate::cuda::paged_attention::PagedAttention {
            op: OP,
            q,
            cache,
            packed: None,
            batch,
            indices: None,
            heads,
            kv_heads: num_kv_heads,
            key_dim: dim,
            value_dim: dim,
            shares_values: false,
            scale,
        };
        return call.run()?.reshape(&[tokens, heads * dim]);
    }
    let args = Attention {
        q: q.f32s(OP, "q")?,
        cache: batch.cache_rows(OP, cache)?,
        width: row,
        block_size,
        sequences: batch.sequences(OP, blocks)?,
        heads,
        kv_heads: num_kv_heads,
        key_dim: dim,
        value_start: num_kv_heads * dim,
        value_dim: dim,
        scale,
        sinks: None,
    };
    batch.count_attention(args.rows_read());
    let mut out = Tensor::output(&cache.device(), DType::F32, &[tokens, heads * dim])?;
    cpu::paged_attention(Level::detect(), &args, out.f32s_mut(OP, "out")?);
    Ok(out)
}
