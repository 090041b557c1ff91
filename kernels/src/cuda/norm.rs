//! Launches of `cuda/norm.cu`.

use crate::cuda::{Args, Launch};
use crate::{DType, KernelError, Result, Tensor};

const STEM: &str = "norm";
/// A row stays in shared memory, of which a block may have 160 KiB.
const MAX_DIM: usize = 40 << 10;

/// A block per row, with a thread per four columns up to 512.
fn rows(op: &'static str, x: &Tensor) -> Result<Launch> {
    let [tokens, dim] = x.dims(op, "x", "[T, D]")?;
    if dim > MAX_DIM {
        return Err(KernelError::shape(op, "x", format!("[T, at most {MAX_DIM}]"), x.shape()));
    }
    let threads = dim.div_ceil(4).next_multiple_of(32).clamp(32, 512) as u32;
    Ok(Launch { grid: [tokens as u32, 1, 1], threads, shared_bytes: 4 * dim as u32 })
}

/// The norm of `x` `[T, D]`, `F32` or `BF16`, in the device's activation dtype (that of `x` if it is `BF16`).
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    const OP: &str = "rms_norm";
    let (device, launch) = (x.cuda(OP)?, rows(OP, x)?);
    let (kernel, dtype) = match (x.dtype(), device.activation_dtype()) {
        (DType::F32, DType::BF16) => ("rms_norm_f32_bf16", DType::BF16),
        (DType::F32, _) => ("rms_norm_f32_f32", DType::F32),
        (DType::BF16, _) => ("rms_norm_bf16_bf16", DType::BF16),
        (found, _) => return Err(KernelError::DType { op: OP, arg: "x", expected: "F32 or BF16", found }),
    };
    let mut out = Tensor::output(&x.device(), dtype, x.shape())?;
    if !x.is_empty() {
        let args = Args::new().tensor(x)?.tensor(weight)?.output(&mut out)?.value(x.dim(1) as u32).value(eps);
        device.launch(STEM, kernel, launch, args)?;
    }
    Ok(out)
}

/// `residual += x`, both `F32`, and the norm of the sum in the device's activation dtype.
pub(crate) fn add_rms_norm(residual: &mut Tensor, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    const OP: &str = "add_rms_norm";
    let (device, launch) = (residual.cuda(OP)?.clone(), rows(OP, residual)?);
    let dtype = device.activation_dtype();
    let kernel = if dtype == DType::BF16 { "add_rms_norm_bf16" } else { "add_rms_norm_f32" };
    let mut out = Tensor::output(&residual.device(), dtype, residual.shape())?;
    if !residual.is_empty() {
        let dim = residual.dim(1) as u32;
        residual.device_buffer_mut(OP, "residual")?;
        let args = Args::new().output(residual)?.tensor(x)?.tensor(weight)?.output(&mut out)?;
        device.launch(STEM, kernel, launch, args.value(dim).value(eps))?;
    }
    Ok(out)
}

/// `x / sqrt(mean(x^2) + eps)` of every head of `x` `[T, H, D]`, `F32`, in place.
pub(crate) fn head_norm(x: &mut Tensor, eps: f32) -> Result<()> {
    const OP: &str = "head_norm_assign";
    let [tokens, heads, dim] = x.dims(OP, "x", "[T, H, D]")?;
    x.device_buffer_mut(OP, "x")?;
    if x.is_empty() {
        return Ok(());
    }
    let device = x.cuda(OP)?.clone();
    let launch = Launch { grid: [(tokens * heads) as u32, 1, 1], threads: 128, shared_bytes: 0 };
    device.launch(STEM, "head_norm", launch, Args::new().output(x)?.value(dim as u32).value(eps))
}
