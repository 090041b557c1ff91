//! Token embedding.

use crate::{DType, KernelError, Result, Tensor, Weight, reference};

/// Rows `ids` `[T]` (`U32`) of `table` (`[V, D]`), decoded to `F32` `[T, D]`.
pub fn embedding(table: &Weight, ids: &Tensor) -> Result<Tensor> {
    const OP: &str = "embedding";
    let [tokens] = ids.dims(OP, "ids", "[T]")?;
    let ids = ids.u32s(OP, "ids")?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= table.rows()) {
        return Err(KernelError::value(OP, "ids", format!("token ids below {}", table.rows()), id));
    }
    let mut out = Tensor::zeros(&table.device(), DType::F32, &[tokens, table.cols()]);
    let values = reference::embedding(&table.to_vec_f32(), table.cols(), ids);
    out.f32s_mut(OP, "out")?.copy_from_slice(&values);
    Ok(out)
}
