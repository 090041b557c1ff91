//! `grouped_linear` on a GPU: the columns of each group apart, a product per group, the results side by side.

use crate::cuda::gemm::{Product, operands};
use crate::cuda::join;
use crate::{DType, Result, Tensor, Weight};

/// See [`crate::ops::grouped_linear`], which has checked the shapes.
pub(crate) fn grouped_linear(x: &Tensor, weights: &[Weight]) -> Result<Tensor> {
    let [_, n, k] = weights.first().map_or([0; 3], Weight::shape);
    let (tokens, groups) = (x.dim(0), weights.len());
    if tokens * n == 0 {
        return Tensor::output(&x.device(), DType::F32, &[tokens, groups * n]);
    }
    let parts: Vec<Tensor> = weights
        .iter()
        .enumerate()
        .map(|(group, weight)| {
            let x = join::take_cols(x, group * k..(group + 1) * k)?;
            let x = &operands(&x, weight)?;
            let product = Product {
                x,
                weight,
                up: None,
                limit: f32::INFINITY,
                bias: None,
                slots: tokens,
                divisor: 1,
                top_k: 1,
            };
            product.run(&product.plan()?, None)
        })
        .collect::<Result<_>>()?;
    join::side_by_side(&parts)
}
