//! The row that is key and value of all heads (V4), ready for the cache.

use crate::cpu::{self, Level};
use crate::ops::kv_write::cache_mut;
use crate::{DType, KernelError, Result, RopeTable, Tensor};

/// The row that is key and value of all heads (V4): `rms_norm(kv)` over all of `kv` `[T, D]` with `weight` `[D]`, then its
/// last `R` columns rotated (interleaved pairs), rounded to `dtype`, `F32` or `BF16`: `[T, D]`.
///
/// The rounding is that of the cache, so that a row is the same whether a query meets it in its own step or later.
pub fn shared_kv(kv: &Tensor, weight: &Tensor, eps: f32, table: &RopeTable, dtype: DType) -> Result<Tensor> {
    const OP: &str = "shared_kv";
    let [tokens, dim] = kv.dims(OP, "kv", "[T, D]")?;
    let [rows, half] = table.cos.dims(OP, "table", "[T, R / 2]")?;
    if weight.shape() != [dim] {
        return Err(KernelError::shape(OP, "weight", format!("[{dim}]"), weight.shape()));
    }
    if rows != tokens || 2 * half > dim {
        let expected = format!("[{tokens}, at most {}]", dim / 2);
        return Err(KernelError::shape(OP, "table", expected, table.cos.shape()));
    }
    #[cfg(feature = "cuda-host")]
    if kv.is_cuda() {
        return crate::cuda::shared_kv::shared_kv(kv, weight, eps, table, dtype);
    }
    let (kv, weight, angles) = (kv.f32s(OP, "kv")?, weight.f32s(OP, "weight")?, table.values(OP)?);
    let mut out = Tensor::output(&Default::default(), dtype, &[tokens, dim])?;
    cpu::shared_kv(Level::detect(), &mut cache_mut(OP, &mut out)?, kv, (weight, eps), angles);
    Ok(out)
}
