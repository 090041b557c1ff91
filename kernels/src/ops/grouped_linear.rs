//! A linear layer in groups: every group of input channels has a matrix of its own (V4's low-rank output, `wo_a`).

use crate::cpu::{self, Level};
use crate::{DType, KernelError, Result, Tensor, Weight};

/// `y[g] = x[g] W[g]^T`: `x` `[T, G * K]` in runs of columns, one for each of the `weights` `[N, K]`, which are of one
/// shape; the result is `[T, G * N]` `F32`.
pub fn grouped_linear(x: &Tensor, weights: &[Weight]) -> Result<Tensor> {
    const OP: &str = "grouped_linear";
    let [tokens, cols] = x.dims(OP, "x", "[T, G * K]")?;
    let Some(first) = weights.first() else {
        return Err(KernelError::value(OP, "weights", "at least one group", "none"));
    };
    let [_, n, k] = first.shape();
    for weight in weights {
        if weight.shape() != [1, n, k] {
            return Err(KernelError::shape(OP, "weights", format!("[1, {n}, {k}]"), &weight.shape()));
        }
        x.expect_device(&weight.device(), OP, "x")?;
    }
    if cols != weights.len() * k {
        return Err(KernelError::shape(OP, "x", format!("[T, {} * {k}]", weights.len()), x.shape()));
    }
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        return crate::cuda::grouped_linear::grouped_linear(x, weights);
    }
    let x = x.f32s(OP, "x")?;
    let mut out = Tensor::output(&first.device(), DType::F32, &[tokens, weights.len() * n])?;
    cpu::grouped_linear(Level::detect(), x, weights, out.f32s_mut(OP, "out")?);
    Ok(out)
}
