//! Token embedding.

use crate::cpu::{self, Level};
use crate::{DType, KernelError, Result, Tensor, Weight};

/// Rows `ids` `[T]` (`U32`) of `table` (`[V, D]`), decoded to `F32` `[T, D]`.
pub fn embedding(table: &Weight, ids: &Tensor) -> Result<Tensor> {
    embedding_shard(table, ids, 0, table.rows())
}

/// [`embedding`] from a part of the table: `table` has the rows of the tokens from `first` on, out of `vocab_size`. The
/// rows of tokens that it does not have are zeros, so that the sum over all parts is the embedding.
pub fn embedding_shard(table: &Weight, ids: &Tensor, first: usize, vocab_size: usize) -> Result<Tensor> {
    const OP: &str = "embedding";
    if table.num_experts() != 1 {
        return Err(KernelError::shape(OP, "table", "[V, D]", &table.shape()));
    }
    let [tokens] = ids.dims(OP, "ids", "[T]")?;
    if first + table.rows() > vocab_size {
        let expected = format!("[at most {vocab_size} - {first}, D]");
        return Err(KernelError::shape(OP, "table", expected, table.data().shape()));
    }
    ids.expect_dtype(DType::U32, "U32", OP, "ids")?;
    if let Some(id) = ids.host_u32s().and_then(|ids| ids.iter().find(|&&id| id as usize >= vocab_size)) {
        return Err(KernelError::value(OP, "ids", format!("token ids below {vocab_size}"), id));
    }
    ids.expect_device(&table.device(), OP, "ids")?;
    #[cfg(feature = "cuda-host")]
    if ids.is_cuda() {
        return crate::cuda::embedding::embedding(table, ids, first, vocab_size);
    }
    let ids = ids.u32s(OP, "ids")?;
    let mut out = Tensor::output(&table.device(), DType::F32, &[tokens, table.cols()])?;
    cpu::embedding(Level::detect(), table, ids, first, out.f32s_mut(OP, "out")?);
    Ok(out)
}
