//! Row plumbing: residual add, row gather, column concatenation.

use crate::{DType, KernelError, Result, Tensor};

/// `x += y` for two `F32` tensors of one shape.
pub fn add_assign(x: &mut Tensor, y: &Tensor) -> Result<()> {
    const OP: &str = "add_assign";
    if x.shape() != y.shape() {
        return Err(KernelError::shape(OP, "y", format!("{:?}", x.shape()), y.shape()));
    }
    y.expect_device(&x.device(), OP, "y")?;
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        x.expect_dtype(DType::F32, "F32", OP, "x")?;
        y.expect_dtype(DType::F32, "F32", OP, "y")?;
        return crate::cuda::elementwise::add_assign(x, y);
    }
    let y = y.f32s(OP, "y")?;
    for (x, y) in x.f32s_mut(OP, "x")?.iter_mut().zip(y) {
        *x += y;
    }
    Ok(())
}

/// Rows `rows` `[R]` (`U32`) of `x` `[T, D]`, as `[R, D]` in the dtype of `x`.
pub fn gather_rows(x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    const OP: &str = "gather_rows";
    let [tokens, dim] = x.dims(OP, "x", "[T, D]")?;
    let [count] = rows.dims(OP, "rows", "[R]")?;
    rows.expect_dtype(DType::U32, "U32", OP, "rows")?;
    if let Some(row) = rows.host_u32s().and_then(|rows| rows.iter().find(|&&r| r as usize >= tokens)) {
        return Err(KernelError::value(OP, "rows", format!("rows below {tokens}"), row));
    }
    rows.expect_device(&x.device(), OP, "rows")?;
    #[cfg(feature = "cuda-host")]
    if x.is_cuda() {
        expect_row_dtype(OP, "x", x)?;
        return crate::cuda::elementwise::gather_rows(x, rows);
    }
    let (source, rows) = (x.f32s(OP, "x")?, rows.u32s(OP, "rows")?);
    let mut out = Tensor::output(&x.device(), DType::F32, &[count, dim])?;
    for (target, &row) in out.f32s_mut(OP, "out")?.chunks_exact_mut(dim.max(1)).zip(rows) {
        target.copy_from_slice(&source[row as usize * dim..][..dim]);
    }
    Ok(out)
}

/// `[a | b]` by columns: `[T, A]` and `[T, B]` become `[T, A + B]`, in their dtype (`BF16` if they differ).
pub fn concat_cols(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "concat_cols";
    let [tokens, left] = a.dims(OP, "a", "[T, A]")?;
    let [b_tokens, right] = b.dims(OP, "b", "[T, B]")?;
    if b_tokens != tokens {
        return Err(KernelError::shape(OP, "b", format!("[{tokens}, B]"), b.shape()));
    }
    b.expect_device(&a.device(), OP, "b")?;
    #[cfg(feature = "cuda-host")]
    if a.is_cuda() {
        expect_row_dtype(OP, "a", a)?;
        expect_row_dtype(OP, "b", b)?;
        return crate::cuda::elementwise::concat_cols(a, b);
    }
    let (a, b) = (a.f32s(OP, "a")?, b.f32s(OP, "b")?);
    let mut values = Vec::with_capacity(tokens * (left + right));
    for t in 0..tokens {
        values.extend_from_slice(&a[t * left..][..left]);
        values.extend_from_slice(&b[t * right..][..right]);
    }
    Tensor::from_f32(&Default::default(), &[tokens, left + right], &values)
}

/// The residual stream or activations.
#[cfg(feature = "cuda-host")]
fn expect_row_dtype(op: &'static str, arg: &'static str, x: &Tensor) -> Result<()> {
    match x.dtype() {
        DType::F32 | DType::BF16 => Ok(()),
        found => Err(KernelError::DType { op, arg, expected: "F32 or BF16", found }),
    }
}
