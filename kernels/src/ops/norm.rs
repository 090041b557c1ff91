//! RMS normalisation, alone and fused with the residual add.

use crate::cpu::{self, Level};
use crate::{DType, KernelError, Result, Tensor};

/// `x / sqrt(mean(x^2) + eps) * weight` per row of `x` `[T, D]`; `weight` `[D]` `F32`.
///
/// `x` is `F32`, on a GPU also `BF16`; the result has the device's activation dtype.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    const OP: &str = "rms_norm";
    check(OP, x, weight)?;
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        return crate::cuda::norm::rms_norm(x, weight, eps);
    }
    let (values, weight) = (x.f32s(OP, "x")?, weight.f32s(OP, "weight")?);
    let mut out = Tensor::output(&x.device(), DType::F32, x.shape())?;
    cpu::rms_norm(Level::detect(), values, weight, eps, out.f32s_mut(OP, "out")?);
    Ok(out)
}

/// `residual += x`, then [`rms_norm`] of the sum: the step between two sublayers in one pass.
pub fn add_rms_norm(residual: &mut Tensor, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    const OP: &str = "add_rms_norm";
    check(OP, residual, weight)?;
    if x.shape() != residual.shape() {
        return Err(KernelError::shape(OP, "x", format!("{:?}", residual.shape()), x.shape()));
    }
    x.expect_device(&residual.device(), OP, "x")?;
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        x.expect_dtype(DType::F32, "F32", OP, "x")?;
        residual.expect_dtype(DType::F32, "F32", OP, "residual")?;
        return crate::cuda::norm::add_rms_norm(residual, x, weight, eps);
    }
    let (x, weight) = (x.f32s(OP, "x")?, weight.f32s(OP, "weight")?);
    let mut out = Tensor::output(&residual.device(), DType::F32, residual.shape())?;
    let sums = residual.f32s_mut(OP, "residual")?;
    cpu::add_rms_norm(Level::detect(), sums, x, weight, eps, out.f32s_mut(OP, "out")?);
    Ok(out)
}

/// `x / sqrt(mean(x^2) + eps)` of every head of `x` `[T, H, D]` (`F32`), in place: a norm without weights.
pub fn head_norm_assign(x: &mut Tensor, eps: f32) -> Result<()> {
    const OP: &str = "head_norm_assign";
    let [_, _, dim] = x.dims(OP, "x", "[T, H, D]")?;
    x.expect_dtype(DType::F32, "F32", OP, "x")?;
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        return crate::cuda::norm::head_norm(x, eps);
    }
    cpu::head_norm(Level::detect(), x.f32s_mut(OP, "x")?, dim, eps);
    Ok(())
}

fn check(op: &'static str, x: &Tensor, weight: &Tensor) -> Result<()> {
    let [_, dim] = x.dims(op, "x", "[T, D]")?;
    if weight.shape() != [dim] {
        return Err(KernelError::shape(op, "weight", format!("[{dim}]"), weight.shape()));
    }
    weight.expect_dtype(DType::F32, "F32", op, "weight")?;
    weight.expect_device(&x.device(), op, "weight")
}
