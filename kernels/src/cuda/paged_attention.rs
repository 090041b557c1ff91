//! Launches of `cuda/paged_attention.cu`: which kernel, which tiles and how many splits a step gets. All of it follows
//! from shapes and the GPU alone.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{Args, CudaDevice, Launch};
use crate::ops::PagedBatch;
use crate::{DType, KernelError, Precision, Result, Tensor};

const STEM: &str = "paged_attention";
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

/// One attention call. Rows of the cache are what their `format` says.
pub(crate) struct PagedAttention<'a> {
    /// Name of the op, for errors.
    pub(crate) op: &'static str,
    /// `[T, heads, key_dim]`, `F32` or the device's activations.
    pub(crate) q: &'a Tensor,
    /// `[blocks, block_size, row]`.
    pub(crate) cache: &'a Tensor,
    pub(crate) batch: &'a PagedBatch,
    /// `[T, K]`, MLA only.
    pub(crate) indices: Option<&'a Tensor>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
    /// Values are the first columns of the keys (MLA); else they follow all keys of the row.
    pub(crate) shares_values: bool,
    pub(crate) scale: f32,
}

/// `Sizes` of `cuda/include/paged_attention.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sizes {
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
}

/// `cache_row::Format`.
fn format(op: &'static str, arg: &'static str, dtype: DType) -> Result<u32> {
    match dtype {
        DType::F32 => Ok(0),
        DType::BF16 => Ok(1),
        DType::U8 => Ok(2),
        found => Err(KernelError::DType { op, arg, expected: "F32, BF16 or U8", found }),
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
struct Plan {
    pairs: usize,
    columns: usize,
    tile_tokens: usize,
    tile_heads: usize,
    head_tiles: usize,
    max_splits: usize,
    staging: Staging,
    stages: usize,
    shared_bytes: usize,
}

impl PagedAttention<'_> {
    fn plan(&self, device: &CudaDevice) -> Result<Plan> {
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
        let packed = if staging == Staging::Packed { KEYS * self.cache.dim(2) } else { 0 };
        let shared = |pairs: usize| {
            pairs * q_bytes + stages * KEYS * key_bytes + (2 * SCORE_STRIDE + 1) * 4 * pairs + packed
        };
        // The large tile where a sequence has more pairs than the small one holds, on average.
        let large = element == 2 && group * tokens.div_ceil(sequences) > 16 && shared(64) <= MAX_SHARED_BYTES;
        let pairs = if large { 64 } else { 16 };
        let columns = [128, 256, 512].into_iter().find(|&columns| self.value_dim <= columns);
        let (Some(columns), true) = (columns, shared(pairs) <= MAX_SHARED_BYTES) else {
            let found = format!("{} and {}", self.key_dim, self.value_dim);
            return Err(KernelError::value(self.op, "q", "heads that fit a GPU's shared memory", found));
        };
        let tile_heads = group.min(pairs);
        let head_tiles = group.div_ceil(tile_heads);
        let keys = self.indices.map_or(self.batch.block_tables.dim(1) * self.batch.block_size, |i| i.dim(1));
        // One sequence alone may fill the GPU; never more, since each split costs a partial result.
        let fill = device.sm_count().div_ceil(head_tiles * self.kv_heads).min(MAX_SPLITS);
        Ok(Plan {
            pairs,
            columns,
            tile_tokens: if self.indices.is_some() { 1 } else { pairs / tile_heads },
            tile_heads,
            head_tiles,
            max_splits: fill.min(keys.div_ceil(SPLIT_KEYS)).max(1),
            staging,
            stages,
            shared_bytes: shared(pairs),
        })
    }

    fn staging(&self, element: usize) -> Staging {
        let whole = |columns: usize| (columns * element).is_multiple_of(16);
        let chunks =
            whole(self.cache.dim(2)) && whole(self.key_dim) && (self.shares_values || whole(self.value_dim));
        match self.cache.dtype() {
            DType::U8 => Staging::Packed,
            dtype if dtype.size() == element && chunks => Staging::Direct,
            _ => Staging::Gathered,
        }
    }

    fn sizes(&self, plan: &Plan) -> Result<Sizes> {
        let batch = self.batch;
        Ok(Sizes {
            tokens: batch.num_tokens() as u32,
            sequences: batch.num_sequences() as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            key_dim: self.key_dim as u32,
            value_dim: self.value_dim as u32,
            value_at: if self.shares_values { 0 } else { (self.kv_heads * self.key_dim) as u32 },
            latent: if self.shares_values { self.value_dim as u32 } else { 0 },
            blocks: self.cache.dim(0) as u32,
            block_size: batch.block_size as u32,
            table_width: batch.block_tables.dim(1) as u32,
            row_bytes: (self.cache.dim(2) * self.cache.dtype().size()) as u32,
            cache_format: format(self.op, "cache", self.cache.dtype())?,
            q_format: format(self.op, "q", self.q.dtype())?,
            staging: plan.staging as u32,
            stages: plan.stages as u32,
            topk: self.indices.map_or(0, |i| i.dim(1) as u32),
            tile_tokens: plan.tile_tokens as u32,
            tile_heads: plan.tile_heads as u32,
            head_tiles: plan.head_tiles as u32,
            max_splits: plan.max_splits as u32,
            scale: self.scale,
        })
    }

    /// The attention of every query head, `[T, heads, value_dim]` in the device's activation dtype.
    pub(crate) fn run(&self) -> Result<Tensor> {
        let device = self.cache.cuda(self.op)?;
        let dtype = device.activation_dtype();
        if self.q.dtype() != DType::F32 && self.q.dtype() != dtype {
            let expected = "F32 or the device's activation dtype";
            return Err(KernelError::DType { op: self.op, arg: "q", expected, found: self.q.dtype() });
        }
        let tokens = self.batch.num_tokens();
        let mut out = Tensor::output(&self.cache.device(), dtype, &[tokens, self.heads, self.value_dim])?;
        if tokens == 0 || self.heads == 0 {
            return Ok(out);
        }
        let plan = self.plan(device)?;
        let sizes = self.sizes(&plan)?;
        let rows = match plan.max_splits {
            1 => 0,
            splits => tokens.min(SPLIT_TOKENS * self.batch.num_sequences()) * self.heads * splits,
        };
        let partial = |width| Tensor::output(&self.cache.device(), DType::F32, &[rows, width]);
        let (mut values, mut states) = (partial(self.value_dim)?, partial(2)?);
        let [start, lens] = [&self.batch.query_start, &self.batch.context_lens];
        let args = Args::new().tensor(self.q)?.tensor(self.cache)?.tensor(start)?.tensor(lens)?;
        let args = args.tensor(&self.batch.block_tables)?.optional(self.indices)?.output(&mut out)?;
        let args = args.output(&mut values)?.output(&mut states)?.fault(device).value(sizes);
        let precision = if dtype == DType::F32 { "f32" } else { "bf16" };
        let name = format!("paged_attention_{precision}_{}x{}", plan.pairs, plan.columns);
        device.launch(STEM, &name, plan.launch(tokens, self), args)?;
        if plan.max_splits > 1 {
            let grid = [self.batch.num_sequences() as u32, self.heads as u32, 1];
            let args = Args::new().tensor(start)?.tensor(lens)?.output(&mut out)?;
            let args = args.tensor(&values)?.tensor(&states)?.fault(device).value(sizes);
            let launch = Launch { grid, threads: 128, shared_bytes: 0 };
            device.launch(STEM, &format!("attention_combine_{precision}"), launch, args)?;
        }
        Ok(out)
    }
}

impl Plan {
    fn launch(&self, tokens: usize, call: &PagedAttention<'_>) -> Launch {
        // A sequence's last tile may be short, so there can be a tile more per sequence.
        let short = if self.tile_tokens == 1 { 0 } else { call.batch.num_sequences() };
        let tiles = tokens / self.tile_tokens + short;
        let heads = self.head_tiles * call.kv_heads;
        let grid = [tiles as u32, heads as u32, self.max_splits as u32];
        Launch { grid, threads: THREADS, shared_bytes: self.shared_bytes as u32 }
    }
}
