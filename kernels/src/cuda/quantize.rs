//! Launches of `cuda/quantize.cu`.

use crate::cuda::{Args, Launch};
use crate::{DType, KernelError, Result, Tensor};

const STEM: &str = "quantize";

/// Activations as integers.
pub(crate) struct Quantized {
    /// `I8`, of the shape of what was quantised.
    pub(crate) codes: Tensor,
    /// `[rows]`, `F32`.
    pub(crate) scales: Tensor,
}

/// `x` `[T, D]`, `F32` or `BF16`, as `I8` with one scale per row.
pub(crate) fn quantize_rows(x: &Tensor) -> Result<Quantized> {
    const OP: &str = "quantize_rows";
    let [rows, dim] = x.dims(OP, "x", "[T, D]")?;
    let kernel = match x.dtype() {
        DType::F32 => "quantize_rows_f32",
        DType::BF16 => "quantize_rows_bf16",
        found => return Err(KernelError::DType { op: OP, arg: "x", expected: "F32 or BF16", found }),
    };
    let mut codes = Tensor::output(&x.device(), DType::I8, x.shape())?;
    let mut scales = Tensor::output(&x.device(), DType::F32, &[rows])?;
    if rows > 0 {
        // A thread per eight columns, up to 256.
        let threads = dim.div_ceil(8).next_multiple_of(32).clamp(32, 256) as u32;
        let args = Args::new().tensor(x)?.output(&mut codes)?.output(&mut scales)?.value(dim as u32);
        let launch = Launch { grid: [rows as u32, 1, 1], threads, shared_bytes: 0 };
        x.cuda(OP)?.launch(STEM, kernel, launch, args)?;
    }
    Ok(Quantized { codes, scales })
}
