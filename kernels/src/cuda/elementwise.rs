//! Launches of `cuda/elementwise.cu`.

use std::borrow::Cow;

use crate::cuda::{Args, Launch};
use crate::{DType, KernelError, Result, Tensor};

const STEM: &str = "elementwise";
const THREADS: u32 = 256;

/// One thread per element.
fn flat(elements: usize) -> Launch {
    Launch { grid: [elements.div_ceil(THREADS as usize) as u32, 1, 1], threads: THREADS, shared_bytes: 0 }
}

/// `x += y`, `F32`.
pub(crate) fn add_assign(x: &mut Tensor, y: &Tensor) -> Result<()> {
    let n = x.len();
    if n == 0 {
        return Ok(());
    }
    let device = x.cuda("add_assign")?.clone();
    let args = Args::new().output(x)?.tensor(y)?.value(n as u64);
    device.launch(STEM, "add_assign_f32", flat(n), args)
}

/// `x` in the device's activation dtype; `F32` is cast where that is `BF16`.
pub(crate) fn activations(x: &Tensor) -> Result<Cow<'_, Tensor>> {
    let wanted = x.cuda("cast")?.activation_dtype();
    if x.dtype() == DType::F32 { cast(x, wanted) } else { Ok(Cow::Borrowed(x)) }
}

/// `x` as `dtype`: `F32` to `BF16`, rounded to nearest even, or the reverse.
pub(crate) fn cast(x: &Tensor, dtype: DType) -> Result<Cow<'_, Tensor>> {
    let kernel = match (x.dtype(), dtype) {
        (from, to) if from == to => return Ok(Cow::Borrowed(x)),
        (DType::F32, DType::BF16) => "cast_f32_bf16",
        (DType::BF16, DType::F32) => "cast_bf16_f32",
        (found, _) => {
            return Err(KernelError::DType { op: "cast", arg: "x", expected: "F32 or BF16", found });
        }
    };
    let mut out = Tensor::output(&x.device(), dtype, x.shape())?;
    if !x.is_empty() {
        let args = Args::new().tensor(x)?.output(&mut out)?.value(x.len() as u64);
        x.cuda("cast")?.launch(STEM, kernel, flat(x.len()), args)?;
    }
    Ok(Cow::Owned(out))
}

/// The largest unit that divides rows of these sizes: the suffix of a kernel and its bytes.
pub(super) fn unit(row_bytes: &[usize]) -> (&'static str, usize) {
    let divides = |unit: usize| row_bytes.iter().all(|bytes| bytes.is_multiple_of(unit));
    match () {
        () if divides(16) => ("16", 16),
        () if divides(4) => ("4", 4),
        () => ("2", 2),
    }
}

/// A row of units per `grid.x`.
pub(super) fn rows_of(rows: usize, units: usize) -> Launch {
    let grid = [rows as u32, units.div_ceil(THREADS as usize) as u32, 1];
    Launch { grid, threads: THREADS, shared_bytes: 0 }
}

/// Rows `rows` `[R]` of `x` `[T, D]`, in the dtype of `x`.
pub(crate) fn gather_rows(x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let device = x.cuda("gather_rows")?;
    let (count, row_bytes) = (rows.len(), x.dim(1) * x.dtype().size());
    let mut out = Tensor::output(&x.device(), x.dtype(), &[count, x.dim(1)])?;
    if !out.is_empty() {
        let (suffix, bytes) = unit(&[row_bytes]);
        let width = row_bytes / bytes;
        let args = Args::new().fault(device).tensor(x)?.tensor(rows)?.output(&mut out)?;
        let args = args.value(x.dim(0) as u32).value(width as u32);
        device.launch(STEM, &format!("gather_rows_{suffix}"), rows_of(count, width), args)?;
    }
    Ok(out)
}

/// `[a | b]` by columns, in their dtype; where one is `F32` and the other `BF16`, in `BF16`.
pub(crate) fn concat_cols(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "concat_cols";
    let device = a.cuda(OP)?;
    let (a, b) = if a.dtype() == b.dtype() {
        (Cow::Borrowed(a), Cow::Borrowed(b))
    } else {
        (activations(a)?, activations(b)?)
    };
    b.expect_dtype(a.dtype(), "the dtype of a", OP, "b")?;
    let (tokens, size) = (a.dim(0), a.dtype().size());
    let mut out = Tensor::output(&a.device(), a.dtype(), &[tokens, a.dim(1) + b.dim(1)])?;
    if !out.is_empty() {
        let widths = [a.dim(1) * size, b.dim(1) * size];
        let (suffix, bytes) = unit(&widths);
        let [left, right] = widths.map(|width| width / bytes);
        let args = Args::new().tensor(&a)?.tensor(&b)?.output(&mut out)?;
        let args = args.value(left as u32).value(right as u32);
        device.launch(STEM, &format!("concat_cols_{suffix}"), rows_of(tokens, left + right), args)?;
    }
    Ok(out)
}
