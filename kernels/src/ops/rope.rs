//! Rotary embedding of query heads, in place.

use crate::cpu::{self, Level};
use crate::{KernelError, Result, RopeLayout, RopeTable, Tensor};

/// Rotates columns `offset .. offset + rope_dim` of every head of `x` `[T, H, D]` (`F32`) in place.
pub fn rope_assign(x: &mut Tensor, offset: usize, table: &RopeTable, layout: RopeLayout) -> Result<()> {
    const OP: &str = "rope_assign";
    let [tokens, heads, dim] = x.dims(OP, "x", "[T, H, D]")?;
    let [rows, half] = table.cos.dims(OP, "table", "[T, rope_dim / 2]")?;
    if rows != tokens || offset + 2 * half > dim {
        let expected = format!("[{tokens}, at most {}]", dim.saturating_sub(offset) / 2);
        return Err(KernelError::shape(OP, "table", expected, table.cos.shape()));
    }
    table.check(OP)?;
    table.cos.expect_device(&x.device(), OP, "table")?;
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        x.expect_dtype(crate::DType::F32, "F32", OP, "x")?;
        return crate::cuda::rope::rope_assign(x, offset, table, layout);
    }
    let angles = table.values(OP)?;
    let columns = offset..offset + 2 * half;
    cpu::rope(Level::detect(), x.f32s_mut(OP, "x")?, (heads, dim), columns, angles, layout);
    Ok(())
}
