//! The lightning indexer of sparse attention: which of the keys that a token sees it attends to.

use crate::cpu::{self, CacheRows, IndexTopk, Level};
use crate::ops::PagedBatch;
use crate::{DType, Fp4KeyRow, IndexKeyRow, KernelError, PackedRow, Result, Tensor};

/// Memory for index scores, at most (one query's are always kept): the queries of a long step are taken in turns.
pub const INDEX_SCORE_BYTES: usize = 64 << 20;

/// The keys with the `topk` largest index scores of every token, `[T, topk]` (`U32`).
///
/// The score of key `s` for token `t` is `sum_h weights[t, h] * relu(q[t, h] . k[s]) * scale`, summed in `F32`: `q` is
/// `[T, H, D]`, rotated, `weights` `[T, H]`, both `F32`; `keys` `[blocks, rows, D]` is `F32` or `BF16`, or
/// `[blocks, rows, bytes]` in `U8` of packed [`IndexKeyRow`]s or [`Fp4KeyRow`]s, which their number of bytes tells apart.
/// Equal scores go to the lowest index (-0 equals 0). A list is ascending, and `u32::MAX` fills up that of a token with fewer
/// keys, which has them all: what [`crate::ops::paged_mla`] takes as `indices` (DeepSeek-V3.2 report, section 2.1).
///
/// With fewer `rows` than a block has tokens, each key stands for `block_size / rows` tokens, and a token sees those whose
/// tokens are all up to its own (the compressed keys of V4).
pub fn index_topk(
    q: &Tensor,
    weights: &Tensor,
    keys: &Tensor,
    batch: &PagedBatch,
    topk: usize,
    scale: f32,
) -> Result<Tensor> {
    const OP: &str = "index_topk";
    let [tokens, heads, dim] = q.dims(OP, "q", "[T, H, D]")?;
    if tokens != batch.num_tokens() || heads * dim == 0 {
        return Err(KernelError::shape(OP, "q", format!("[{}, H, D]", batch.num_tokens()), q.shape()));
    }
    if weights.shape() != [tokens, heads] {
        return Err(KernelError::shape(OP, "weights", format!("[{tokens}, {heads}]"), weights.shape()));
    }
    let [blocks, rows, width] = keys.dims(OP, "keys", "[blocks, rows, D]")?;
    let packed = packed_key(dim, width);
    let row_width = if keys.dtype() == DType::U8 { packed.bytes() } else { dim };
    if width != row_width || rows == 0 || !batch.block_size.is_multiple_of(rows) {
        let expected = format!("[blocks, a divisor of {}, {row_width}]", batch.block_size);
        return Err(KernelError::shape(OP, "keys", expected, keys.shape()));
    }
    if topk == 0 {
        return Err(KernelError::value(OP, "topk", "at least 1", topk));
    }
    batch.check(OP, &keys.device(), blocks)?;
    for (arg, tensor) in [("q", q), ("weights", weights)] {
        tensor.expect_device(&keys.device(), OP, arg)?;
        tensor.expect_dtype(DType::F32, "F32", OP, arg)?;
    }
    #[cfg(feature = "cuda-host")]
    if keys.is_cuda() {
        return crate::cuda::indexer::index_topk(q, weights, (keys, packed), batch, topk, scale);
    }
    let args = IndexTopk {
        q: q.f32s(OP, "q")?,
        weights: weights.f32s(OP, "weights")?,
        keys: match keys.dtype() {
            DType::U8 => CacheRows::Packed(keys.bytes(), packed),
            _ => batch.cache_rows(OP, keys)?,
        },
        heads,
        dim,
        rows_per_block: rows,
        tokens_per_key: batch.block_size / rows,
        sequences: batch.sequences(OP, blocks)?,
        topk,
        scale,
    };
    batch.count_index(args.keys_read());
    let mut out = Tensor::output(&keys.device(), DType::U32, &[tokens, topk])?;
    cpu::index_topk(Level::detect(), &args, bytemuck::cast_slice_mut(out.bytes_mut(OP, "out")?));
    Ok(out)
}

/// The packed key of `dim` channels that has `bytes`: FP4 has fewer than FP8, whatever `dim` is.
fn packed_key(dim: usize, bytes: usize) -> PackedRow {
    let fp4 = Fp4KeyRow { index_head_dim: dim };
    if dim.is_multiple_of(2) && fp4.bytes() == bytes {
        PackedRow::Fp4Key(fp4)
    } else {
        PackedRow::IndexKey(IndexKeyRow { index_head_dim: dim })
    }
}
