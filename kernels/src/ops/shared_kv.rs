//! The row that is key and value of all heads (V4), ready for the cache.

use crate::cpu::{self, CacheMut, CacheRows, Level};
use crate::ops::kv_write::cache_mut;
use crate::ops::paged::float_rows;
use crate::{DType, Device, KernelError, PackedRow, Result, RopeTable, SharedKvRow, Tensor};

/// The row that is key and value of all heads (V4): `rms_norm(kv)` over all of `kv` `[T, D]` with `weight` `[D]`, then its
/// last `R` columns rotated (interleaved pairs), rounded to `dtype`, `F32` or `BF16`: `[T, D]`, or packed as bytes where that
/// is `U8`: `[T, bytes]` of [`SharedKvRow`]s.
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
    let row = SharedKvRow { head_dim: dim, qk_rope_head_dim: 2 * half };
    #[cfg(feature = "cuda-host")]
    if kv.is_cuda() {
        return crate::cuda::shared_kv::shared_kv(kv, weight, eps, table, (dtype, row_width(dtype, row)));
    }
    let (kv, weight, angles) = (kv.f32s(OP, "kv")?, weight.f32s(OP, "weight")?, table.values(OP)?);
    let mut out = Tensor::output(&Default::default(), dtype, &[tokens, row_width(dtype, row)])?;
    cpu::shared_kv(Level::detect(), &mut rows_mut(OP, &mut out, row)?, kv, (weight, eps), angles);
    Ok(out)
}

/// Elements of a row that is stored as `dtype`.
pub(super) fn row_width(dtype: DType, row: SharedKvRow) -> usize {
    if dtype == DType::U8 { row.bytes() } else { row.head_dim }
}

/// The rows of a tensor on the CPU.
pub(super) fn rows<'a>(
    op: &'static str,
    arg: &'static str,
    rows: &'a Tensor,
    row: SharedKvRow,
) -> Result<CacheRows<'a>> {
    rows.expect_device(&Device::Cpu, op, arg)?;
    match rows.dtype() {
        DType::U8 => Ok(CacheRows::Packed(rows.bytes(), PackedRow::SharedKv(row))),
        _ => float_rows(op, arg, rows),
    }
}

/// The same, for writing.
pub(super) fn rows_mut<'a>(op: &'static str, rows: &'a mut Tensor, row: SharedKvRow) -> Result<CacheMut<'a>> {
    match rows.dtype() {
        DType::U8 => Ok(CacheMut::Packed(rows.bytes_mut(op, "cache")?, PackedRow::SharedKv(row))),
        _ => cache_mut(op, rows),
    }
}
