//! Launches of `cuda/compressor.cu`: one block per token, of which those that end a window work.

use bytemuck::{Pod, Zeroable};

use crate::cuda::state_ring::stateful;
use crate::cuda::{Args, Launch};
use crate::ops::{Compressor, PagedBatch};
use crate::{DType, KernelError, PackedRow, Result, RopeTable, Tensor};

/// `Sizes` of `cuda/compressor.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sizes {
    ratio: u32,
    ring_rows: u32,
    rows_per_block: u32,
    dim: u32,
    channels: u32,
    half_rope: u32,
    row_bytes: u32,
    eps: f32,
}

/// See [`crate::ops::compress`], which has checked the shapes.
pub(crate) fn compress(
    cache: &mut Tensor,
    projected: &Tensor,
    state: &Tensor,
    compressor: &Compressor,
    table: &RopeTable,
    batch: &PagedBatch,
) -> Result<()> {
    const OP: &str = "compress";
    let Compressor { ape, norm, eps, packed } = compressor;
    let inputs = [
        ("projected", projected),
        ("state", state),
        ("ape", ape),
        ("norm", norm),
        ("table", &table.cos),
        ("table", &table.sin),
    ];
    for (arg, tensor) in inputs {
        tensor.expect_dtype(DType::F32, "F32", OP, arg)?;
        tensor.expect_device(&cache.device(), OP, arg)?;
    }
    let name = match cache.dtype() {
        DType::F32 => "compress_f32",
        DType::BF16 => "compress_bf16",
        DType::U8 => match packed {
            PackedRow::IndexKey(_) => "compress_fp8_key",
            PackedRow::Fp4Key(_) => "compress_fp4_key",
            PackedRow::SharedKv(_) | PackedRow::Latent(_) => "compress_fp8",
        },
        found => return Err(KernelError::DType { op: OP, arg: "cache", expected: "F32, BF16 or U8", found }),
    };
    let tokens = batch.num_tokens();
    if tokens == 0 {
        return Ok(());
    }
    let (device, blocks, rows_per_block) = (cache.cuda(OP)?.clone(), cache.dim(0), cache.dim(1));
    let sizes = Sizes {
        ratio: compressor.ratio() as u32,
        ring_rows: state.dim(1) as u32,
        rows_per_block: rows_per_block as u32,
        dim: norm.len() as u32,
        channels: ape.dim(1) as u32,
        half_rope: table.cos.dim(1) as u32,
        row_bytes: (cache.dim(2) * cache.dtype().size()) as u32,
        eps: *eps,
    };
    let args = Args::new().output(cache)?.tensor(projected)?.tensor(state)?.tensor(ape)?.tensor(norm)?;
    let args = args.tensor(&table.cos)?.tensor(&table.sin)?;
    let args = stateful(OP, args, &device, batch, [state.dim(0), blocks])?.value(sizes);
    let shared_bytes = 4 * norm.len() as u32;
    device.launch(
        "compressor",
        name,
        Launch { grid: [tokens as u32, 1, 1], threads: 256, shared_bytes },
        args,
    )
}
