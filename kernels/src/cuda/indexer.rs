//! Launches of `cuda/indexer.cu`: scores of as many tokens as fit the memory for them, then their choice, in turns.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{Args, Launch};
use crate::ops::{INDEX_SCORE_BYTES, PagedBatch};
use crate::{DType, KernelError, PackedRow, Precision, Result, Tensor};

const STEM: &str = "indexer";
const OP: &str = "index_topk";
/// `kHeads` and `kKeys`: rows of the two tiles of a product.
const TILE: usize = 64;
/// `kDepth`: columns of a panel.
const DEPTH: usize = 64;
/// `kSpan`: keys of a block.
const SPAN: usize = 256;
/// What a block may have on sm_80.
const MAX_SHARED_BYTES: usize = 163 << 10;

/// `Sizes` of `cuda/indexer.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sizes {
    tokens: u32,
    sequences: u32,
    blocks: u32,
    block_size: u32,
    table_width: u32,
    rows_per_block: u32,
    row_bytes: u32,
    heads: u32,
    dim: u32,
    topk: u32,
    first_token: u32,
    score_stride: u32,
    scale: f32,
}

/// The lists `[T, topk]`; arguments as `ops::index_topk` has checked them.
pub(crate) fn index_topk(
    q: &Tensor,
    weights: &Tensor,
    (keys, packed): (&Tensor, PackedRow),
    batch: &PagedBatch,
    topk: usize,
    scale: f32,
) -> Result<Tensor> {
    let [tokens, heads, dim] = q.dims(OP, "q", "[T, H, D]")?;
    let [blocks, rows_per_block, _] = keys.dims(OP, "keys", "[blocks, rows, D]")?;
    let device = keys.cuda(OP)?;
    let (operand, element) = match device.precision() {
        Precision::F32 => ("f32", 4),
        Precision::Bf16 => ("bf16", 2),
    };
    let stored = match keys.dtype() {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::U8 if matches!(packed, PackedRow::Fp4Key(_)) => "fp4",
        DType::U8 => "fp8",
        found => return Err(KernelError::DType { op: OP, arg: "keys", expected: "F32, BF16 or U8", found }),
    };
    // Every panel of the queries and one of the keys.
    let shared_bytes = (dim.div_ceil(DEPTH) + 1) * TILE * DEPTH * element;
    if shared_bytes > MAX_SHARED_BYTES {
        return Err(KernelError::value(OP, "q", "heads that fit a GPU's shared memory", dim));
    }
    let mut lists = Tensor::output(&keys.device(), DType::U32, &[tokens, topk])?;
    if tokens == 0 {
        return Ok(lists);
    }
    let max_keys = batch.block_tables.dim(1) * rows_per_block;
    let rows = (INDEX_SCORE_BYTES / 4 / max_keys.max(1)).clamp(1, tokens);
    let mut scores = Tensor::output(&keys.device(), DType::F32, &[rows, max_keys])?;
    let paging = [&batch.query_start, &batch.context_lens, &batch.block_tables];
    for first in (0..tokens).step_by(rows) {
        let count = rows.min(tokens - first);
        let sizes = Sizes {
            tokens: tokens as u32,
            sequences: batch.num_sequences() as u32,
            blocks: blocks as u32,
            block_size: batch.block_size as u32,
            table_width: batch.block_tables.dim(1) as u32,
            rows_per_block: rows_per_block as u32,
            row_bytes: (keys.dim(2) * keys.dtype().size()) as u32,
            heads: heads as u32,
            dim: dim as u32,
            topk: topk as u32,
            first_token: first as u32,
            score_stride: max_keys as u32,
            scale,
        };
        let paged = |args: Args| paging.into_iter().try_fold(args, Args::tensor);
        // With no more keys than a list has room for there is nothing to choose.
        if max_keys > topk {
            let args = paged(Args::new().tensor(q)?.tensor(weights)?.tensor(keys)?)?;
            let grid = [count as u32, max_keys.div_ceil(SPAN) as u32, 1];
            let launch = Launch { grid, threads: 128, shared_bytes: shared_bytes as u32 };
            let args = args.output(&mut scores)?.fault(device).value(sizes);
            device.launch(STEM, &format!("index_scores_{stored}_{operand}"), launch, args)?;
        }
        let args = paged(Args::new())?.tensor(&scores)?.output(&mut lists)?.fault(device).value(sizes);
        let launch = Launch { grid: [count as u32, 1, 1], threads: 1024, shared_bytes: 0 };
        device.launch(STEM, "index_select", launch, args)?;
    }
    Ok(lists)
}
