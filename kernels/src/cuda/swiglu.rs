//! `swiglu` on a GPU: gate and up share a tile, so that the activation is the matmul's epilogue.

use crate::cuda::elementwise;
use crate::cuda::gemm::{Product, expect_alike, operands};
use crate::{Result, Tensor, Weight};

/// `silu(x G^T) * (x U^T)`, `[T, I]` in the activation dtype.
pub(crate) fn swiglu(x: &Tensor, gate: &Weight, up: &Weight, limit: Option<f32>) -> Result<Tensor> {
    expect_alike("swiglu", gate, up)?;
    let slots = x.dim(0);
    let x = &operands(x, gate)?;
    let (weight, up) = (gate, Some(up));
    let limit = limit.unwrap_or(f32::INFINITY);
    let product = Product { x, weight, up, limit, bias: None, slots, divisor: 1, top_k: 1 };
    let out = product.run(&product.plan()?, None)?;
    Ok(elementwise::activations(&out)?.into_owned())
}
