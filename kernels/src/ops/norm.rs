//! RMS normalisation, alone and fused with the residual add.

use crate::{KernelError, Result, Tensor, reference};

/// `x / sqrt(mean(x^2) + eps) * weight` per row of `x` `[T, D]`; `weight` `[D]`, all `F32`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    const OP: &str = "rms_norm";
    let [_, dim] = check(OP, x, weight)?;
    let values = reference::rms_norm(x.f32s(OP, "x")?, weight.f32s(OP, "weight")?, dim, eps);
    Tensor::from_f32(&x.device(), x.shape(), &values)
}

/// `residual += x`, then [`rms_norm`] of the sum: the step between two sublayers in one pass.
pub fn add_rms_norm(residual: &mut Tensor, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    check("add_rms_norm", residual, weight)?;
    super::add_assign(residual, x)?;
    rms_norm(residual, weight, eps)
}

fn check(op: &'static str, x: &Tensor, weight: &Tensor) -> Result<[usize; 2]> {
    let [tokens, dim] = x.dims(op, "x", "[T, D]")?;
    if weight.shape() != [dim] {
        return Err(KernelError::shape(op, "weight", format!("[{dim}]"), weight.shape()));
    }
    Ok([tokens, dim])
}
