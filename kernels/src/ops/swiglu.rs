//! The gated half of an MLP: both projections and the activation in one op.

use crate::cpu::{self, Level};
use crate::{DType, KernelError, Result, Tensor, Weight};

/// `silu(x G^T) * (x U^T)`: `x` `[T, K]`, `gate` and `up` `[I, K]`; the result is `[T, I]`.
///
/// With `limit` (V4's `swiglu_limit`) `x G^T` is cut off above it, and `x U^T` on both sides, before the activation.
pub fn swiglu(x: &Tensor, gate: &Weight, up: &Weight, limit: Option<f32>) -> Result<Tensor> {
    const OP: &str = "swiglu";
    let [tokens, k] = x.dims(OP, "x", "[T, K]")?;
    if k != gate.cols() || gate.num_experts() != 1 {
        return Err(KernelError::shape(OP, "gate", format!("[1, I, {k}]"), &gate.shape()));
    }
    if gate.shape() != up.shape() {
        let expected = format!("gate's {:?}", gate.shape());
        return Err(KernelError::shape(OP, "up", expected, &up.shape()));
    }
    x.expect_device(&gate.device(), OP, "x")?;
    up.data().expect_device(&gate.device(), OP, "up")?;
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        return crate::cuda::swiglu::swiglu(x, gate, up, limit);
    }
    let x = x.f32s(OP, "x")?;
    let mut out = Tensor::output(&gate.device(), DType::F32, &[tokens, gate.rows()])?;
    let limit = limit.unwrap_or(f32::INFINITY);
    cpu::swiglu(Level::detect(), x, gate, up, limit, out.f32s_mut(OP, "out")?);
    Ok(out)
}
