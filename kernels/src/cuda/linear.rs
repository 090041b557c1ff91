//! `linear` on a GPU.

use crate::cuda::gemm::{Product, operands};
use crate::{Result, Tensor, Weight};

/// `x W^T + bias`, `F32` `[T, N]`.
pub(crate) fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let slots = x.dim(0);
    let x = &operands(x, weight)?;
    let limit = f32::INFINITY;
    let product = Product { x, weight, up: None, limit, bias, slots, divisor: 1, top_k: 1 };
    product.run(&product.plan()?, None)
}
