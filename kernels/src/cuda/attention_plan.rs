//! The shape of an attention call on a GPU ([`Shape`]), and what follows from it and the GPU alone ([`Plan`]): which kernel,
//! which tiles and how many splits. What `cuda/include/attention_kernel.cuh` takes.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{CudaDevice, Launch};
use crate::ops::PagedBatch;
use crate::{DType, Device, KernelError, PackedRow, Precision, Result, Tensor};

const THREADS: u32 = 256;
/// Keys of a tile, `kKeys`.
const KEYS: usize = 32;
/// `kSplitTokens`: sequences with no more new tokens have their keys split over blocks.
const SPLIT_TOKENS: usize = 4;
/// `kSplitKeys`: the least keys of a split.
const SPLIT_KEYS: usize = 256;
/// `kMaxSplits`.
const MAX_SPLITS: usize = 64;
/// `kScoreStride`.
const SCORE_STRIDE: usize = 36;
/// What a block may have on sm_80.
const MAX_SHARED_BYTES: usize = 163 << 10;

/// One attention call. Rows of keys are what their `format` says.
pub(super) struct Shape<'a> {
    /// Name of the op, for errors.
    pub(super) op: &'static str,
    pub(super) batch: &'a PagedBatch,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) key_dim: usize,
    pub(super) value_dim: usize,
    /// Values are the first columns of the keys (MLA, V4); else they follow all keys of the row.
    pub(super) shares_values: bool,
    /// Element type and elements of a row of keys.
    pub(super) row: (DType, usize),
    /// What rows of bytes hold.
    pub(super) packed: Option<PackedRow>,
    /// Blocks of the paged cache.
    pub(super) blocks: usize,
    /// Keys of a token, at most.
    pub(super) keys: usize,
    /// Places of an index list, 0 without lists.
    pub(super) topk: usize,
    /// Each token has keys of its own, so that a tile has one.
    pub(super) by_token: bool,
    pub(super) scale: f32,
}

/// `Sizes` of `cuda/include/paged_attention.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Sizes {
    tokens: u32,
    sequences: u32,
    heads: u32,
    kv_heads: u32,
    key_dim: u32,
    value_dim: u32,
    value_at: u32,
    latent: u32,
    blocks: u32,
    block_size: u32,
    table_width: u32,
    row_bytes: u32,
    cache_format: u32,
    q_format: u32,
    staging: u32,
    stages: u32,
    topk: u32,
    tile_tokens: u32,
    tile_heads: u32,
    head_tiles: u32,
    max_splits: u32,
    scale: f32,
    packed: u32,
}

/// `cache_row::Format` of plain elements.
fn format(op: &'static str, arg: &'static str, dtype: DType) -> Result<u32> {
    match dtype {
        DType::F32 => Ok(0),
        DType::BF16 => Ok(1),
        found => Err(KernelError::DType { op, arg, expected: "F32 or BF16", found }),
    }
}

/// How keys come into shared memory, `Staging`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Staging {
    Gathered = 0,
    Direct = 1,
    Packed = 2,
}

/// The kernel and the shape of its tiles.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    precision: Precision,
    pairs: usize,
    columns: usize,
    tile_tokens: usize,
    tile_heads: usize,
    head_tiles: usize,
    pub(super) max_splits: usize,
    staging: Staging,
    stages: usize,
    shared_bytes: usize,
}

impl Shape<'_> {
    /// The plan with tiles of the value columns `widths`, for which the kernel has instances.
    pub(super) fn plan(&self, device: &CudaDevice, widths: &[usize]) -> Result<Plan> {
        let element = if device.precision() == Precision::F32 { 4 } else { 2 };
        let [tokens, sequences] = [self.batch.num_tokens(), self.batch.num_sequences()];
        let group = self.heads / self.kv_heads;
        // Bytes of a tile row, in whole 128-byte groups.
        let row_bytes = |columns: usize| (columns * element).next_multiple_of(128);
        let q_bytes = row_bytes(self.key_dim.next_multiple_of(16));
        let key_bytes = q_bytes + if self.shares_values { 0 } else { row_bytes(self.value_dim) };
        let staging = self.staging(element);
        // Two tiles of f32 keys do not fit beside the queries.
        let stages = if staging == Staging::Direct && element == 2 { 2 } else { 1 };
        let packed = if staging == Staging::Packed { KEYS * self.row.1 } else { 0 };
        let shared = |pairs: usize| {
            pairs * q_bytes + stages * KEYS * key_bytes + (2 * SCORE_STRIDE + 1) * 4 * pairs + packed
        };
        // The large tile where a sequence, or a token by itself, has more pairs than the small one holds, on average.
        let tile_most = if self.by_token { group } else { group * tokens.div_ceil(sequences) };
        let large = element == 2 && tile_most > 16 && shared(64) <= MAX_SHARED_BYTES;
        let pairs = if large { 64 } else { 16 };
        let columns = widths.iter().copied().find(|&columns| self.value_dim <= columns);
        let (Some(columns), true) = (columns, shared(pairs) <= MAX_SHARED_BYTES) else {
            let found = format!("{} and {}", self.key_dim, self.value_dim);
            return Err(KernelError::value(self.op, "q", "heads that fit a GPU's shared memory", found));
        };
        let tile_heads = group.min(pairs);
        let head_tiles = group.div_ceil(tile_heads);
        // One sequence alone may fill the GPU; never more, since each split costs a partial result.
        let fill = device.sm_count().div_ceil(head_tiles * self.kv_heads).min(MAX_SPLITS);
        Ok(Plan {
            precision: device.precision(),
            pairs,
            columns,
            tile_tokens: if self.by_token { 1 } else { pairs / tile_heads },
            tile_heads,
            head_tiles,
            max_splits: fill.min(self.keys.div_ceil(SPLIT_KEYS)).max(1),
            staging,
            stages,
            shared_bytes: shared(pairs),
        })
    }

    fn staging(&self, element: usize) -> Staging {
        let whole = |columns: usize| (columns * element).is_multiple_of(16);
        let chunks =
            whole(self.row.1) && whole(self.key_dim) && (self.shares_values || whole(self.value_dim));
        match self.row.0 {
            DType::U8 => Staging::Packed,
            dtype if dtype.size() == element && chunks => Staging::Direct,
            _ => Staging::Gathered,
        }
    }

    /// `cache_row::Format` of the keys, and how many channels of a packed row are in FP8.
    fn cache_format(&self) -> Result<(u32, usize)> {
        match (self.row.0, self.packed) {
            (DType::U8, Some(PackedRow::Latent(row))) => Ok((2, row.kv_lora_rank)),
            (DType::U8, Some(PackedRow::SharedKv(row))) => Ok((2, row.num_packed())),
            (dtype, _) => Ok((format(self.op, "cache", dtype)?, 0)),
        }
    }

    /// The sizes of a call with queries of `q`.
    pub(super) fn sizes(&self, plan: &Plan, q: DType) -> Result<Sizes> {
        let batch = self.batch;
        let (cache_format, packed) = self.cache_format()?;
        Ok(Sizes {
            tokens: batch.num_tokens() as u32,
            sequences: batch.num_sequences() as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            key_dim: self.key_dim as u32,
            value_dim: self.value_dim as u32,
            value_at: if self.shares_values { 0 } else { (self.kv_heads * self.key_dim) as u32 },
            latent: if self.shares_values { self.value_dim as u32 } else { 0 },
            blocks: self.blocks as u32,
            block_size: batch.block_size as u32,
            table_width: batch.block_tables.dim(1) as u32,
            row_bytes: (self.row.1 * self.row.0.size()) as u32,
            cache_format,
            q_format: format(self.op, "q", q)?,
            staging: plan.staging as u32,
            stages: plan.stages as u32,
            topk: self.topk as u32,
            tile_tokens: plan.tile_tokens as u32,
            tile_heads: plan.tile_heads as u32,
            head_tiles: plan.head_tiles as u32,
            max_splits: plan.max_splits as u32,
            scale: self.scale,
            packed: packed as u32,
        })
    }

    /// Memory for the results of splits: values, and the maximum and sum of each. Empty where nothing is split.
    pub(super) fn partials(&self, plan: &Plan, device: &Device) -> Result<[Tensor; 2]> {
        let rows = match plan.max_splits {
            1 => 0,
            splits => {
                self.batch.num_tokens().min(SPLIT_TOKENS * self.batch.num_sequences()) * self.heads * splits
            }
        };
        let partial = |width| Tensor::output(device, DType::F32, &[rows, width]);
        Ok([partial(self.value_dim)?, partial(2)?])
    }

    pub(super) fn launch(&self, plan: &Plan) -> Launch {
        // A sequence's last tile may be short, so there can be a tile more per sequence.
        let short = if plan.tile_tokens == 1 { 0 } else { self.batch.num_sequences() };
        let tiles = self.batch.num_tokens() / plan.tile_tokens + short;
        let heads = plan.head_tiles * self.kv_heads;
        let grid = [tiles as u32, heads as u32, plan.max_splits as u32];
        Launch { grid, threads: THREADS, shared_bytes: plan.shared_bytes as u32 }
    }

    /// The launch that adds up the splits.
    pub(super) fn combine(&self) -> Launch {
        let grid = [self.batch.num_sequences() as u32, self.heads as u32, 1];
        Launch { grid, threads: 128, shared_bytes: 0 }
    }
}

impl Plan {
    /// The instance of the kernel `stem`.
    pub(super) fn instance(&self, stem: &str) -> String {
        let precision = if self.precision == Precision::F32 { "f32" } else { "bf16" };
        format!("{stem}_{precision}_{}x{}", self.pairs, self.columns)
    }
}
