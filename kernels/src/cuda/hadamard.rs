//! Launches of `cuda/hadamard.cu`: a warp per head.

use crate::cuda::{Args, Launch};
use crate::{KernelError, Result, Tensor};

const STEM: &str = "hadamard";
/// `kWarps`: heads of a block.
const WARPS: usize = 4;
/// What a block may have on sm_80.
const MAX_SHARED_BYTES: usize = 163 << 10;

/// Rotates and rounds the heads of `q` `[T, H, D]` to FP8; arguments as `ops::hadamard_fp8_assign` has checked them.
pub(crate) fn hadamard_fp8_assign(q: &mut Tensor, weights: &mut Tensor) -> Result<()> {
    const OP: &str = "hadamard_fp8_assign";
    let (rows, dim) = (weights.len(), q.dim(2));
    q.device_buffer_mut(OP, "q")?;
    weights.device_buffer_mut(OP, "weights")?;
    let launch = launch(OP, rows, dim)?;
    if rows == 0 {
        return Ok(());
    }
    let device = q.cuda(OP)?.clone();
    let args = Args::new().output(q)?.output(weights)?.value(rows as u32).value(dim as u32);
    device.launch(STEM, "hadamard_fp8", launch, args)
}

/// The same to FP4, for `ops::hadamard_fp4_assign`.
pub(crate) fn hadamard_fp4_assign(q: &mut Tensor) -> Result<()> {
    const OP: &str = "hadamard_fp4_assign";
    let (rows, dim) = (q.dim(0) * q.dim(1), q.dim(2));
    q.device_buffer_mut(OP, "q")?;
    let launch = launch(OP, rows, dim)?;
    if rows == 0 {
        return Ok(());
    }
    let device = q.cuda(OP)?.clone();
    let args = Args::new().output(q)?.value(rows as u32).value(dim as u32);
    device.launch(STEM, "hadamard_fp4", launch, args)
}

fn launch(op: &'static str, rows: usize, dim: usize) -> Result<Launch> {
    let shared_bytes = WARPS * dim * 4;
    if shared_bytes > MAX_SHARED_BYTES {
        return Err(KernelError::value(op, "q", "heads that fit a GPU's shared memory", dim));
    }
    let grid = [rows.div_ceil(WARPS) as u32, 1, 1];
    Ok(Launch { grid, threads: 32 * WARPS as u32, shared_bytes: shared_bytes as u32 })
}
