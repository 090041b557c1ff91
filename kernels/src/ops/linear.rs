//! The linear layer over packed weights.

use crate::cpu::{self, Level};
use crate::{DType, KernelError, Result, Tensor, Weight};

/// `x W^T + bias`: `x` `[T, K]` `F32`, `weight` `[N, K]` in any stored form, `bias` `[N]` `F32`; the result is
/// `[T, N]` `F32`, accumulated in `F32`. A row's result does not depend on the other rows of the batch; on a GPU its
/// last bits depend on how many there are (up to 16, up to 64, more: other tiles).
pub fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "linear";
    let [tokens, k] = x.dims(OP, "x", "[T, K]")?;
    let n = weight.rows();
    if k != weight.cols() || weight.num_experts() != 1 {
        return Err(KernelError::shape(OP, "weight", format!("[1, N, {k}]"), &weight.shape()));
    }
    if let Some(bias) = bias.filter(|b| b.shape() != [n]) {
        return Err(KernelError::shape(OP, "bias", format!("[{n}]"), bias.shape()));
    }
    x.expect_device(&weight.device(), OP, "x")?;
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        if let Some(bias) = bias {
            bias.expect_device(&x.device(), OP, "bias")?;
            bias.expect_dtype(DType::F32, "F32", OP, "bias")?;
        }
        return crate::cuda::linear::linear(x, weight, bias);
    }
    let bias = bias.map(|b| b.f32s(OP, "bias")).transpose()?;
    let x = x.f32s(OP, "x")?;
    let mut out = Tensor::output(&weight.device(), DType::F32, &[tokens, n])?;
    cpu::linear(Level::detect(), x, weight, bias, out.f32s_mut(OP, "out")?);
    Ok(out)
}
