//! [`Engine`]: one model, its KV pool and the books over it; every sequence steps through [`Engine::extend`].

use std::sync::{Arc, Mutex, PoisonError};

use checkpoint::CommonConfig;
use kernels::ops::PagedBatch;
use kernels::{DType, Device, Tensor};
use models::{Batch, KvCache, Model, StepContext};
use scheduler::BlockAllocator;

use crate::{EngineError, Generation, Request, Sequence, memory};

/// The context an engine takes when none is asked for, unless the model's own is shorter.
pub const DEFAULT_CONTEXT_LEN: usize = 8192;

/// Sizes of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Positions a sequence may reach; `None` takes the model's own, at most [`DEFAULT_CONTEXT_LEN`].
    pub context_len: Option<usize>,
    /// Element type of the KV cache, `F32` or `BF16`; `None` takes `F32` for checkpoints stored in single precision
    /// and `BF16` for all others.
    pub kv_dtype: Option<DType>,
    /// Tokens per KV block.
    pub block_size: usize,
    /// Most prompt tokens per step; bounds the activation memory and the time until a cancel is noticed.
    pub prefill_chunk: usize,
    /// Full-length sequences the KV pool holds at once.
    pub max_sequences: usize,
    /// Fills the cache with NaN, so that whoever reads a row that was never written shows it. For `verify` and tests.
    pub poison_cache: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            context_len: None,
            kv_dtype: None,
            block_size: 16,
            prefill_chunk: 256,
            max_sequences: 1,
            poison_cache: false,
        }
    }
}

/// The element type of a KV cache where nobody asks for another: what the checkpoint was stored in, `F32` or `BF16`.
pub fn default_kv_dtype(config: &CommonConfig) -> DType {
    match config.torch_dtype.as_deref() {
        Some("float32") => DType::F32,
        _ => DType::BF16,
    }
}

/// A model ready to run. Shared by reference count: each [`Generation`] holds the engine it runs on, and several may
/// be stepped in turn or from several threads. What one computes does not depend on the others.
pub struct Engine {
    model: Box<dyn Model>,
    device: Device,
    allocator: BlockAllocator,
    kv: Mutex<KvCache>,
    kv_dtype: DType,
    context_len: usize,
    prefill_chunk: usize,
    vocab_size: usize,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("device", &self.device)
            .field("context_len", &self.context_len)
            .field("kv_dtype", &self.kv_dtype)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Allocates the KV pool for `model` on `device`.
    ///
    /// # Errors
    /// [`EngineError::Options`] for a size out of range, [`EngineError::Memory`] if the pool does not fit.
    pub fn new(
        model: Box<dyn Model>,
        device: Device,
        options: &EngineOptions,
    ) -> Result<Arc<Self>, EngineError> {
        let common = model.config().common();
        let (vocab_size, longest) = (common.vocab_size, common.max_position_embeddings);
        let kv_dtype = options.kv_dtype.unwrap_or_else(|| default_kv_dtype(common));
        if !matches!(kv_dtype, DType::F32 | DType::BF16) {
            return Err(EngineError::options("kv_dtype", "F32 or BF16", kv_dtype));
        }
        let sizes = [("prefill_chunk", options.prefill_chunk), ("max_sequences", options.max_sequences)];
        if let Some((field, found)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(EngineError::options(field, "at least 1", found));
        }
        let context_len = options.context_len.unwrap_or(longest.min(DEFAULT_CONTEXT_LEN));
        if context_len < 2 || context_len > longest {
            let expected = format!("2 to {longest}, the model's longest context");
            return Err(EngineError::options("context_len", expected, context_len));
        }
        let blocks = context_len.div_ceil(options.block_size.max(1)).saturating_mul(options.max_sequences);
        let allocator = BlockAllocator::new(blocks, options.block_size)?;
        let layout = model.kv_layout();
        let needed_bytes =
            (layout.bytes_per_token(kv_dtype) as u64).saturating_mul(allocator.capacity() as u64);
        if let Some(available_bytes) = memory::available_bytes().filter(|&bytes| bytes < needed_bytes) {
            return Err(EngineError::Memory { context_len, needed_bytes, available_bytes });
        }
        let cache = if options.poison_cache { KvCache::poisoned } else { KvCache::new };
        let kv = Mutex::new(cache(&device, layout, blocks, options.block_size, kv_dtype)?);
        let prefill_chunk = options.prefill_chunk;
        Ok(Arc::new(Self { model, device, allocator, kv, kv_dtype, context_len, prefill_chunk, vocab_size }))
    }

    /// Starts a continuation with an empty cache.
    ///
    /// # Errors
    /// [`EngineError::Request`] names the field that cannot be run.
    pub fn generate(self: &Arc<Self>, request: Request) -> Result<Generation, EngineError> {
        self.resume(self.sequence(), request)
    }

    /// Starts a continuation that keeps as much of `sequence` as the prompt begins with and computes only the rest.
    ///
    /// # Errors
    /// [`EngineError::Request`] names the field that cannot be run.
    pub fn resume(self: &Arc<Self>, sequence: Sequence, request: Request) -> Result<Generation, EngineError> {
        request.validate(self.vocab_size, self.context_len)?;
        Generation::new(Arc::clone(self), sequence, request)
    }

    /// A sequence with nothing cached.
    pub fn sequence(&self) -> Sequence {
        Sequence::new(self.allocator.table())
    }

    /// Runs the model over `tokens`, which follow those already in `sequence`, and returns their final-normed hidden
    /// states `[T, D]`. This is the only place where a batch is made.
    ///
    /// # Errors
    /// [`EngineError::Blocks`] if the pool is full; a failed step leaves the sequence as it was.
    pub fn extend(
        &self,
        ctx: &mut StepContext<'_>,
        sequence: &mut Sequence,
        tokens: &[u32],
    ) -> Result<Tensor, EngineError> {
        let (start, end) = (sequence.len(), sequence.len() + tokens.len());
        sequence.table.grow_to(end)?;
        let hidden = self.forward(ctx, sequence.table.blocks(), start, tokens);
        match hidden {
            Ok(_) => sequence.commit(tokens),
            Err(_) => sequence.table.truncate(start),
        }
        hidden
    }

    fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        blocks: &[u32],
        start: usize,
        tokens: &[u32],
    ) -> Result<Tensor, EngineError> {
        let end = start + tokens.len();
        let paged =
            PagedBatch::new(&self.device, self.allocator.block_size(), &[(tokens.len(), end, blocks)])?;
        let positions: Vec<u32> = (start as u32..end as u32).collect();
        let batch = Batch::new(tokens, &positions, paged)?;
        // Rows of other sequences are never read, so a step that panicked half way has damaged nobody else.
        let mut kv = self.kv.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.model.forward(ctx, &batch, &mut kv)?)
    }

    /// The model.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// Where the model and its cache live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Positions a sequence may reach, prompt and output together.
    pub fn context_len(&self) -> usize {
        self.context_len
    }

    /// Element type of the KV cache.
    pub fn kv_dtype(&self) -> DType {
        self.kv_dtype
    }

    /// Most prompt tokens per step.
    pub fn prefill_chunk(&self) -> usize {
        self.prefill_chunk
    }

    /// Number of token ids the model knows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The block pool, for its counts and its integrity check.
    pub fn allocator(&self) -> &BlockAllocator {
        &self.allocator
    }
}
