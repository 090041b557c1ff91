//! [`RmsNorm`] and [`LayerNorm`], each with its own epsilon.

use kernels::{Tensor, ops};

use crate::Result;

/// `x / sqrt(mean(x^2) + eps) * weight`, in `F32`.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// `[D]`, `F32`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    /// `x` `[T, D]` to `[T, D]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::rms_norm(x, &self.weight, self.eps)?)
    }

    /// `residual += x`, and the norm of the sum: the step between two sublayers.
    pub fn forward_add(&self, residual: &mut Tensor, x: &Tensor) -> Result<Tensor> {
        Ok(ops::add_rms_norm(residual, x, &self.weight, self.eps)?)
    }
}

/// `(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`; the op that writes index keys applies it.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// `[D]`, `F32`.
    pub weight: Tensor,
    /// `[D]`, `F32`.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f32,
}
