//! The routed experts of a mixture-of-experts layer, grouped by expert.

use crate::cpu::{self, Level};
use crate::ops::Routing;
use crate::{DType, KernelError, Result, Tensor, Weight};

/// The stacked expert matrices of one layer.
#[derive(Debug, Clone)]
pub struct Experts {
    /// `[E, I, D]`.
    pub gate: Weight,
    /// `[E, I, D]`.
    pub up: Weight,
    /// `[E, D, I]`.
    pub down: Weight,
    /// Bound of the SwiGLU's factors (see [`crate::ops::swiglu`]).
    pub swiglu_limit: Option<f32>,
}

impl Experts {
    /// Fails unless all three live on `device`.
    #[cfg(feature = "cuda-host")]
    fn expect_device(&self, device: &crate::Device, op: &'static str) -> Result<()> {
        for (arg, weight) in [("gate", &self.gate), ("up", &self.up), ("down", &self.down)] {
            weight.data().expect_device(device, op, arg)?;
        }
        Ok(())
    }
}

/// `sum_k w_k * down_k(silu(gate_k x) * up_k x)` over each token's chosen experts: `x` `[T, D]` to `[T, D]`.
///
/// Each expert's weights are read once per call, whatever the number of its tokens. The sum runs in the order of
/// `routing`, so a token's result does not depend on the rest of the batch.
pub fn moe_experts(x: &Tensor, routing: &Routing, experts: &Experts) -> Result<Tensor> {
    const OP: &str = "moe_experts";
    let [tokens, dim] = x.dims(OP, "x", "[T, D]")?;
    let [count, inter, cols] = experts.gate.shape();
    if cols != dim {
        return Err(KernelError::shape(OP, "gate", format!("[E, I, {dim}]"), &experts.gate.shape()));
    }
    if experts.up.shape() != [count, inter, dim] {
        let expected = format!("[{count}, {inter}, {dim}]");
        return Err(KernelError::shape(OP, "up", expected, &experts.up.shape()));
    }
    if experts.down.shape() != [count, dim, inter] {
        let expected = format!("[{count}, {dim}, {inter}]");
        return Err(KernelError::shape(OP, "down", expected, &experts.down.shape()));
    }
    let [rows, top_k] = routing.experts.dims(OP, "routing", "[T, K]")?;
    if rows != tokens || routing.weights.shape() != [tokens, top_k] {
        let expected = format!("[{tokens}, K]");
        return Err(KernelError::shape(OP, "routing", expected, routing.weights.shape()));
    }
    routing.experts.expect_dtype(DType::U32, "U32", OP, "routing.experts")?;
    // What a GPU has routed is checked by its kernels.
    if let Some(id) = routing.experts.host_u32s().and_then(|ids| ids.iter().find(|&&id| id as usize >= count))
    {
        return Err(KernelError::value(OP, "routing.experts", format!("ids below {count}"), id));
    }
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        experts.expect_device(&x.device(), OP)?;
        routing.experts.expect_device(&x.device(), OP, "routing.experts")?;
        routing.weights.expect_device(&x.device(), OP, "routing.weights")?;
        routing.weights.expect_dtype(DType::F32, "F32", OP, "routing.weights")?;
        return crate::cuda::moe::moe_experts(x, routing, experts);
    }
    let ids = routing.experts.u32s(OP, "routing.experts")?;
    let weights = routing.weights.f32s(OP, "routing.weights")?;
    let x = x.f32s(OP, "x")?;
    let mut out = Tensor::output(&experts.gate.device(), DType::F32, &[tokens, dim])?;
    cpu::moe_experts(Level::detect(), x, (ids, weights), experts, out.f32s_mut(OP, "out")?);
    Ok(out)
}
