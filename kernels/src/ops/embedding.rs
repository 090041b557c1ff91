//! Token embedding.

use crate::cpu::{self, Level};
use crate::{DType, KernelError, Result, Tensor, Weight};

/// Rows `ids` `[T]` (`U32`) of `table` (`[V, D]`), decoded to `F32` `[T, D]`.
pub fn embedding(table: &Weight, ids: &Tensor) -> Result<Tensor> {
    const OP: &str = "embedding";
    if table.num_experts() != 1 {
        return Err(KernelError::shape(OP, "table", "[V, D]", &table.shape()));
    }
    let [tokens] = ids.dims(OP, "ids", "[T]")?;
    let ids = ids.u32s(OP, "ids")?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= table.rows()) {
        return Err(KernelError::value(OP, "ids", format!("token ids below {}", table.rows()), id));
    }
    let mut out = Tensor::output(&table.device(), DType::F32, &[tokens, table.cols()])?;
    cpu::embedding(Level::detect(), table, ids, out.f32s_mut(OP, "out")?);
    Ok(out)
}
