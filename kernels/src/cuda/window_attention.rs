//! Launches of `cuda/window_attention.cu`: a warp per token and head.

use bytemuck::{Pod, Zeroable};

use crate::cuda::state_ring::stateful;
use crate::cuda::{Args, Launch};
use crate::ops::{CompressedEntries, PagedBatch};
use crate::{DType, KernelError, Result, Tensor};

/// `kWarps`: heads of a block.
const HEADS: usize = 8;

/// `Sizes` of `cuda/window_attention.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sizes {
    heads: u32,
    dim: u32,
    window: u32,
    ratio: u32,
    rows_per_block: u32,
    topk: u32,
    scale: f32,
}

/// See [`crate::ops::window_attention`], which has checked the shapes.
pub(crate) fn window_attention(
    q: &Tensor,
    [fresh, ring]: [&Tensor; 2],
    entries: Option<CompressedEntries<'_>>,
    sinks: &Tensor,
    batch: &PagedBatch,
    scale: f32,
) -> Result<Tensor> {
    const OP: &str = "window_attention";
    let [tokens, heads, dim] = q.dims(OP, "q", "[T, H, D]")?;
    let rows = match ring.dtype() {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        found => return Err(KernelError::DType { op: OP, arg: "ring", expected: "F32 or BF16", found }),
    };
    let channels = match dim {
        0..=128 => "128",
        129..=512 => "512",
        _ => return Err(KernelError::shape(OP, "q", "[T, H, at most 512 on a GPU]", q.shape())),
    };
    let device = q.cuda(OP)?;
    let (cache, indices) = (entries.map(|e| e.cache), entries.and_then(|e| e.indices));
    for (arg, tensor) in [("q", q), ("sinks", sinks)] {
        tensor.expect_dtype(DType::F32, "F32", OP, arg)?;
    }
    for (arg, tensor) in [("fresh", Some(fresh)), ("ring", Some(ring)), ("cache", cache)] {
        let Some(tensor) = tensor else { continue };
        tensor.expect_device(&q.device(), OP, arg)?;
        tensor.expect_dtype(ring.dtype(), "the dtype of the ring", OP, arg)?;
    }
    let mut out = Tensor::output(&q.device(), DType::F32, &[tokens, heads, dim])?;
    if out.is_empty() {
        return Ok(out);
    }
    let rows_per_block = cache.map_or(1, |cache| cache.dim(1));
    let sizes = Sizes {
        heads: heads as u32,
        dim: dim as u32,
        window: ring.dim(1) as u32,
        ratio: cache.map_or(0, |_| batch.block_size / rows_per_block) as u32,
        rows_per_block: rows_per_block as u32,
        topk: indices.map_or(0, |indices| indices.dim(1)) as u32,
        scale,
    };
    let args = Args::new().tensor(q)?.tensor(fresh)?.tensor(ring)?.optional(cache)?.optional(indices)?;
    let args = args.tensor(sinks)?.output(&mut out)?;
    let blocks = cache.map_or(0, |cache| cache.dim(0));
    let args = stateful(OP, args, device, batch, [ring.dim(0), blocks])?.value(sizes);
    let grid = [tokens as u32, heads.div_ceil(HEADS) as u32, 1];
    let launch = Launch { grid, threads: 32 * HEADS as u32, shared_bytes: 0 };
    device.launch(OP, &format!("window_attention_{rows}_{channels}"), launch, args)?;
    Ok(out)
}
