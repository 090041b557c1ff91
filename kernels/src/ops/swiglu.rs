//! The gated half of an MLP: both projections and the activation in one op.

use crate::{KernelError, Result, Tensor, Weight, reference};

/// `silu(x G^T) * (x U^T)`: `x` `[T, K]`, `gate` and `up` `[I, K]`; the result is `[T, I]`.
pub fn swiglu(x: &Tensor, gate: &Weight, up: &Weight) -> Result<Tensor> {
    const OP: &str = "swiglu";
    if gate.data().shape() != up.data().shape() {
        let expected = format!("gate's {:?}", gate.data().shape());
        return Err(KernelError::shape(OP, "up", expected, up.data().shape()));
    }
    let mut hidden = super::linear(x, gate, None)?;
    let up = super::linear(x, up, None)?;
    reference::silu_mul(hidden.f32s_mut(OP, "gate")?, up.f32s(OP, "up")?);
    Ok(hidden)
}
