//! Rotary embedding of query heads, in place.

use crate::{KernelError, Result, RopeLayout, RopeTable, Tensor, reference};

/// Rotates columns `offset .. offset + rope_dim` of every head of `x` `[T, H, D]` in place.
pub fn rope_assign(x: &mut Tensor, offset: usize, table: &RopeTable, layout: RopeLayout) -> Result<()> {
    const OP: &str = "rope_assign";
    let [tokens, heads, dim] = x.dims(OP, "x", "[T, H, D]")?;
    let [rows, half] = table.cos.dims(OP, "table", "[T, rope_dim / 2]")?;
    if rows != tokens || offset + 2 * half > dim {
        let expected = format!("[{tokens}, at most {}]", dim.saturating_sub(offset) / 2);
        return Err(KernelError::shape(OP, "table", expected, table.cos.shape()));
    }
    let (cos, sin) = (table.cos.f32s(OP, "cos")?, table.sin.f32s(OP, "sin")?);
    let x = x.f32s_mut(OP, "x")?;
    for row in 0..tokens * heads {
        let t = row / heads;
        let head = &mut x[row * dim + offset..][..2 * half];
        reference::rope(head, &cos[t * half..][..half], &sin[t * half..][..half], layout);
    }
    Ok(())
}
