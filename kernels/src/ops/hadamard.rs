//! The released treatment of the lightning indexer's query: a Walsh-Hadamard rotation, then FP8 (V3.2) or FP4 (V4).

use crate::cpu;
use crate::{DType, KernelError, Result, Tensor};

/// Makes index queries what the release compares with its FP8 keys ([`crate::IndexKeyRow`]), in place.
///
/// Every head of `q` `[T, H, D]` is multiplied by the Walsh-Hadamard matrix (Sylvester's order) over the root of `D`, a
/// power of two; divided by its scale (as an [`crate::IndexKeyRow`] is) and rounded to e4m3. It
/// then holds e4m3 values unscaled, and the scale is multiplied into its weight in `weights` `[T, H]`. Both are `F32`.
/// (`inference/model.py` of DeepSeek-V3.2-Exp, `Indexer`; the rotation there starts and ends in bf16.)
pub fn hadamard_fp8_assign(q: &mut Tensor, weights: &mut Tensor) -> Result<()> {
    const OP: &str = "hadamard_fp8_assign";
    let [tokens, heads, dim] = q.dims(OP, "q", "[T, H, D]")?;
    check_dim(OP, "q", dim)?;
    if weights.shape() != [tokens, heads] {
        return Err(KernelError::shape(OP, "weights", format!("[{tokens}, {heads}]"), weights.shape()));
    }
    weights.expect_device(&q.device(), OP, "weights")?;
    for (arg, tensor) in [("q", &*q), ("weights", &*weights)] {
        tensor.expect_dtype(DType::F32, "F32", OP, arg)?;
    }
    #[cfg(feature = "cuda-host")]
    if q.is_cuda() {
        return crate::cuda::hadamard::hadamard_fp8_assign(q, weights);
    }
    let (q, weights) = (q.f32s_mut(OP, "q")?, weights.f32s_mut(OP, "weights")?);
    cpu::hadamard_fp8(q, weights, dim);
    Ok(())
}

/// Makes index queries what the release compares with its FP4 keys ([`crate::Fp4KeyRow`]), in place.
///
/// Every head of `q` `[T, H, D]`, `F32`, is multiplied by the Walsh-Hadamard matrix (as [`hadamard_fp8_assign`] does) and
/// rounded to e2m1, 32 channels by a scale of their own; it then holds the rounded values, scaled. (`inference/model.py` of
/// DeepSeek-V4, `Indexer`; the rotation there starts and ends in bf16.)
pub fn hadamard_fp4_assign(q: &mut Tensor) -> Result<()> {
    const OP: &str = "hadamard_fp4_assign";
    let [_, _, dim] = q.dims(OP, "q", "[T, H, D]")?;
    check_dim(OP, "q", dim)?;
    q.expect_dtype(DType::F32, "F32", OP, "q")?;
    #[cfg(feature = "cuda-host")]
    if q.is_cuda() {
        return crate::cuda::hadamard::hadamard_fp4_assign(q);
    }
    cpu::hadamard_fp4(q.f32s_mut(OP, "q")?, dim);
    Ok(())
}

/// Refuses vectors that no Walsh-Hadamard matrix fits.
pub(super) fn check_dim(op: &'static str, arg: &'static str, dim: usize) -> Result<()> {
    if dim.is_power_of_two() {
        return Ok(());
    }
    Err(KernelError::value(op, arg, "vectors of a power of two channels", dim))
}
