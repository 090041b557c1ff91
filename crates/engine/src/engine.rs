//! [`Engine`]: one model on its ranks, their KV pools and the books over them; every sequence steps through
//! [`Engine::extend`].

use std::sync::Arc;
use std::time::Duration;

use checkpoint::CommonConfig;
use kernels::{DType, Device, Tensor};
use models::{KvCache, KvLayout, Model, Mtp, StepContext};
use scheduler::BlockAllocator;

use crate::draft::{DraftInput, DraftState};
use crate::ranks::{RankState, Ranks};
use crate::recorded::{self, RecordedDecode};
use crate::speculation::{Drafter, Speculation};
use crate::state_slots::{StateSlot, StateSlots};
use crate::step::{StepChunk, StepInput, StepTensors, gather};
use crate::{EngineError, Generation, LogitRows, Rank, RankView, Request, Sequence, StepOutput, memory};

/// The context an engine takes when none is asked for, unless the model's own is shorter.
pub const DEFAULT_CONTEXT_LEN: usize = 8192;

/// How long one rank waits for another unless somebody says otherwise: far more than a rank computes between two
/// collectives, so that only a rank that hangs runs into it. One that fails is known at once.
pub const RANK_DEADLINE: Duration = Duration::from_secs(120);

/// Sizes of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Positions a sequence may reach; `None` takes the model's own, at most [`DEFAULT_CONTEXT_LEN`].
    pub context_len: Option<usize>,
    /// Element type of the KV cache, `F32`, `BF16`, or `F8_E4M3` for MLA and V4; `None` takes `F32` for
    /// checkpoints stored in single precision and `BF16` for all others.
    pub kv_dtype: Option<DType>,
    /// Tokens per KV block; rounded up to whole rows where a row of the cache stands for several tokens.
    pub block_size: usize,
    /// Most prompt tokens per step; bounds the activation memory and the time until a cancel is noticed.
    pub prefill_chunk: usize,
    /// Full-length sequences the KV pool holds at once.
    pub max_sequences: usize,
    /// Sequences that may be under way at once, of models that keep state per sequence; the others have no such limit.
    pub state_slots: usize,
    /// Copies of such state that are kept for the prefix cache of a service; without any it finds nothing.
    pub state_snapshots: usize,
    /// Fills the cache with NaN, so that whoever reads a row that was never written shows it. For `verify` and tests.
    pub poison_cache: bool,
    /// Takes the memory of the KV cache at the start. Otherwise the system gives host memory page by page as the cache
    /// fills: a program that runs for long cannot tell that from a leak, nor a full machine from a crash.
    pub commit_cache: bool,
    /// Records decode steps on devices that can, and replays them. Off, every step is launched kernel by kernel.
    pub record_decode: bool,
    /// Guesses tokens and checks several in a step; `None` computes one after the other.
    pub speculation: Option<Speculation>,
    /// How long a step waits for the other ranks after the first has finished its part.
    pub rank_deadline: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            context_len: None,
            kv_dtype: None,
            block_size: 16,
            prefill_chunk: 256,
            max_sequences: 1,
            state_slots: 64,
            state_snapshots: 0,
            poison_cache: false,
            commit_cache: false,
            record_decode: true,
            speculation: None,
            rank_deadline: RANK_DEADLINE,
        }
    }
}

/// What options mean for one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Element type of the KV cache.
    pub kv_dtype: DType,
    /// Positions a sequence may reach.
    pub context_len: usize,
    /// Tokens that the KV pool holds.
    pub kv_tokens: usize,
    /// Most tokens of a step.
    pub step_tokens: usize,
    /// States that are kept, of models that keep any: sequences under way, and snapshots of the prefix cache.
    pub state_slots: usize,
    /// Tokens that such a state can go back: those of a step that were guessed.
    pub rollback: usize,
    /// Rows of the largest recorded step, whose logits are kept, and its hidden states for an MTP layer.
    pub recorded_rows: usize,
}

impl EngineOptions {
    /// The sizes that these options give a model.
    ///
    /// # Errors
    /// [`EngineError::Options`] for a size out of range.
    pub fn sizes(&self, common: &CommonConfig) -> Result<Sizes, EngineError> {
        let kv_dtype = self.kv_dtype.unwrap_or_else(|| default_kv_dtype(common));
        if !matches!(kv_dtype, DType::F32 | DType::BF16 | DType::F8E4M3) {
            return Err(EngineError::options("kv_dtype", "F32, BF16 or F8_E4M3", kv_dtype));
        }
        let fields = [
            ("prefill_chunk", self.prefill_chunk),
            ("max_sequences", self.max_sequences),
            ("state_slots", self.state_slots),
        ];
        if let Some((field, found)) = fields.into_iter().find(|(_, size)| *size == 0) {
            return Err(EngineError::options(field, "at least 1", found));
        }
        let longest = common.max_position_embeddings;
        let context_len = self.context_len.unwrap_or(longest.min(DEFAULT_CONTEXT_LEN));
        if context_len < 2 || context_len > longest {
            let expected = format!("2 to {longest}, the model's longest context");
            return Err(EngineError::options("context_len", expected, context_len));
        }
        let kv_tokens = context_len.saturating_mul(self.max_sequences);
        let step_tokens = self.prefill_chunk.min(context_len);
        let state_slots = self.state_slots.saturating_add(self.state_snapshots);
        let rollback = self.speculation.map_or(0, |speculation| speculation.num_tokens);
        let recorded_rows =
            if self.record_decode { recorded::max_rows(self.state_slots, 1 + rollback) } else { 0 };
        Ok(Sizes { kv_dtype, context_len, kv_tokens, step_tokens, state_slots, rollback, recorded_rows })
    }

    /// Whether the model's MTP layer guesses.
    fn drafts(&self) -> bool {
        self.speculation.is_some_and(|speculation| speculation.drafter == Drafter::Mtp)
    }

    /// What a rank's steps change, over `blocks` blocks of `size` tokens.
    fn rank_state(
        &self,
        rank: &Rank,
        sizes: &Sizes,
        [blocks, size]: [usize; 2],
    ) -> Result<RankState, EngineError> {
        let Sizes { kv_dtype, context_len, state_slots, rollback, recorded_rows, .. } = *sizes;
        let records = self.record_decode && rank.device.can_record() && rank.comm.is_capturable();
        // Recorded steps are filled up with rows that write to a block and a state slot behind all others.
        let spare = usize::from(records);
        let cache = |layout: &KvLayout, spare: usize| {
            let new = if self.poison_cache { KvCache::poisoned } else { KvCache::new };
            new(&rank.device, layout, blocks + spare, size, kv_dtype)?
                .with_state_slots(state_slots + spare, rollback)
        };
        let mut kv = cache(rank.model.kv_layout(), spare)?;
        let mtp = rank.model.mtp().filter(|_| self.drafts());
        let mut mtp_kv = mtp.map(|mtp| cache(mtp.kv_layout(), 0)).transpose()?;
        if self.commit_cache && rank.device == Device::Cpu {
            // Zeros over zeros: what is written has a page.
            let pairs: Vec<(u32, u32)> = (1..blocks as u32).map(|block| (0, block)).collect();
            kv.copy_blocks(&pairs)?;
            mtp_kv.iter_mut().try_for_each(|kv| kv.copy_blocks(&pairs))?;
        }
        let shape = recorded::Shape {
            block_size: size,
            max_blocks: context_len.div_ceil(size),
            verify_rows: 1 + rollback,
            max_rows: recorded_rows,
            keeps_hidden: mtp_kv.is_some(),
        };
        let spares = [blocks as u32, state_slots as u32];
        let decode = records.then(|| RecordedDecode::new(shape, spares));
        Ok(RankState { kv, decode, draft: mtp_kv.map(|kv| DraftState { kv, hidden: None }) })
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
    ranks: Ranks,
    allocator: BlockAllocator,
    slots: StateSlots,
    kv_dtype: DType,
    context_len: usize,
    prefill_chunk: usize,
    vocab_size: usize,
    speculation: Option<Speculation>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("device", self.device())
            .field("context_len", &self.context_len)
            .field("kv_dtype", &self.kv_dtype)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Allocates the KV pools of `ranks`, the ranks of one model in order, and starts a thread for each but the first.
    ///
    /// # Errors
    /// [`EngineError::Options`] for a size out of range or ranks that are no group, [`EngineError::Memory`] if the
    /// pools do not fit.
    pub fn new(ranks: Vec<Rank>, options: &EngineOptions) -> Result<Arc<Self>, EngineError> {
        check_group(&ranks)?;
        let common = ranks[0].model.config().common();
        let vocab_size = common.vocab_size;
        let sizes = options.sizes(common)?;
        let Sizes { kv_dtype, context_len, state_slots, rollback, .. } = sizes;
        let layout = ranks[0].model.kv_layout();
        let size = options.block_size.next_multiple_of(layout.block_tokens());
        let slots = StateSlots::new(if layout.has_state() { options.state_slots } else { 0 }, rollback);
        let drafts = options.drafts();
        let drafter = ranks[0].model.mtp().filter(|_| drafts);
        let states = [Some(layout), drafter.map(Mtp::kv_layout)].into_iter().flatten();
        let slot_bytes: usize = states.map(|layout| layout.bytes_per_sequence(kv_dtype, rollback)).sum();
        let state_bytes = slot_bytes.saturating_mul(state_slots) * ranks.len();
        if let Some(speculation) = &options.speculation {
            let has_mtp = ranks.iter().all(|rank| rank.model.mtp().is_some());
            speculation.validate(has_mtp)?;
        }
        let row_bytes = |rank: &Rank| {
            let mtp =
                rank.model.mtp().filter(|_| drafts).map(|mtp| mtp.kv_layout().bytes_per_token(kv_dtype));
            Ok::<_, EngineError>(
                rank.model.kv_layout().bytes_per_token(kv_dtype)? + mtp.transpose()?.unwrap_or(0),
            )
        };
        let token_bytes: usize = ranks.iter().map(row_bytes).sum::<Result<_, _>>()?;
        let blocks = context_len.div_ceil(size.max(1)).saturating_mul(options.max_sequences);
        let allocator = BlockAllocator::new(blocks, size)?;
        let allocator = match slots.exist() {
            true => allocator.with_snapshots(options.state_snapshots),
            false => allocator,
        };
        let needed_bytes = (token_bytes as u64).saturating_mul(allocator.capacity() as u64);
        let needed_bytes = needed_bytes.saturating_add(state_bytes as u64);
        // A GPU's memory is planned before the weights are loaded (`MemoryPlan`).
        let on_cpu = ranks[0].device == Device::Cpu;
        let available_bytes = memory::available_bytes().filter(|&bytes| on_cpu && bytes < needed_bytes);
        if let Some(available_bytes) = available_bytes {
            return Err(EngineError::Memory { context_len, needed_bytes, available_bytes });
        }
        let ranks = ranks.into_iter().map(|rank| {
            let state = options.rank_state(&rank, &sizes, [blocks, size])?;
            Ok((rank, state))
        });
        let ranks = Ranks::new(ranks.collect::<Result<_, EngineError>>()?, options.rank_deadline)?;
        let EngineOptions { prefill_chunk, speculation, .. } = *options;
        Ok(Arc::new(Self {
            ranks,
            allocator,
            slots,
            kv_dtype,
            context_len,
            prefill_chunk,
            vocab_size,
            speculation,
        }))
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

    /// Runs the model over `tokens`, which follow those already in `sequence`, on all ranks: the logits of `rows`, on
    /// the host. `ctx` and its probe hear rank 0.
    ///
    /// # Errors
    /// [`EngineError::Blocks`] if the pool is full, [`EngineError::Request`] for ids beyond the vocabulary,
    /// [`EngineError::Rank`] if a rank of several fails; a failed step leaves the sequence as it was, or empty if the model
    /// keeps state for it that cannot go back so far.
    pub fn extend(
        &self,
        ctx: &mut StepContext<'_>,
        sequence: &mut Sequence,
        tokens: &[u32],
        rows: LogitRows,
    ) -> Result<StepOutput, EngineError> {
        let wanted: Vec<u32> = match rows {
            LogitRows::All => (0..tokens.len() as u32).collect(),
            LogitRows::Last | LogitRows::None => vec![0],
        };
        // A replayed step has rows behind them.
        let read = |logits: &Tensor| Ok::<_, EngineError>(gather(logits, &wanted)?.to_device(&Device::Cpu)?);
        let logits = self.extend_with(ctx, sequence, tokens, rows, read)?;
        Ok(StepOutput { logits: logits.transpose()? })
    }

    /// As [`Engine::extend`], with what `read` makes of the logits where they are. A failure of `read` is no failure of
    /// the step.
    pub(crate) fn extend_with<R>(
        &self,
        ctx: &mut StepContext<'_>,
        sequence: &mut Sequence,
        tokens: &[u32],
        rows: LogitRows,
        mut read: impl FnMut(&Tensor) -> R,
    ) -> Result<Option<R>, EngineError> {
        let (start, count) = (sequence.len(), tokens.len() as u32);
        if self.slots.exist() && sequence.slot.is_none() {
            sequence.slot = Some(self.slots.take()?);
        }
        sequence.table.grow_to(start + tokens.len())?;
        let slot = sequence.slot.as_ref().map(StateSlot::number);
        let blocks = sequence.table.blocks().to_vec();
        let chunk = StepChunk { tokens: tokens.to_vec(), start, blocks, slot };
        let logit_rows = match rows {
            LogitRows::None => 0..0,
            LogitRows::Last => count.saturating_sub(1)..count,
            LogitRows::All => 0..count,
        };
        let logit_rows = logit_rows.collect();
        let step = StepInput { chunks: vec![chunk], logit_rows, ..StepInput::default() };
        let output = self.step(ctx, &Arc::new(step), |tensors| tensors.logits.map(&mut read));
        // Whatever the step wrote before it failed, it wrote as if it had not.
        sequence.commit(tokens);
        if output.is_err() {
            sequence.truncate(start);
        }
        output
    }

    /// Runs one step on all ranks, and returns what `read` makes of rank 0's results where they are. A failure of `read`
    /// is no failure of the step.
    pub(crate) fn step<R>(
        &self,
        ctx: &mut StepContext<'_>,
        step: &Arc<StepInput>,
        mut read: impl FnMut(StepTensors<'_>) -> R,
    ) -> Result<R, EngineError> {
        // Found here, a bad id costs its own request; found by the ranks, it would cost the engine.
        let mut tokens = step.chunks.iter().flat_map(|chunk| &chunk.tokens);
        if let Some(id) = tokens.find(|&&id| id as usize >= self.vocab_size) {
            return Err(EngineError::request("tokens", format!("token ids below {}", self.vocab_size), id));
        }
        // A probe hears nothing of a replayed step.
        let may_replay = !ctx.is_probed();
        self.ranks.run(
            |rank| step.run(ctx, may_replay, rank, &mut |tensors| Ok(read(tensors))),
            || {
                let step = Arc::clone(step);
                // Only rank 0's results are read; the others wait, so that a fault of theirs is this step's.
                let wait = |tensors: StepTensors<'_>| -> Result<(), EngineError> {
                    match tensors.logits.or(tensors.hidden) {
                        Some(result) => Ok(result.device().synchronize()?),
                        None => Ok(()),
                    }
                };
                Arc::new(move |rank| {
                    step.run(&mut StepContext::new(rank.device), may_replay, rank, &mut { wait })
                })
            },
        )
    }

    /// Runs the MTP layer over the rows of the step before that hold, on all ranks, and returns its guesses for each
    /// sequence.
    pub(crate) fn draft(&self, input: DraftInput) -> Result<Vec<Vec<u32>>, EngineError> {
        self.on_ranks(move |rank| input.run(rank))
    }

    /// Runs `job` on every rank at once and returns what it gave on rank 0. It must call the same collectives on each,
    /// as a model's forward does.
    ///
    /// # Errors
    /// What `job` returns where there is one rank, [`EngineError::Rank`] where there are several.
    pub fn on_ranks<R>(
        &self,
        job: impl Fn(&mut RankView<'_>) -> Result<R, EngineError> + Send + Sync + 'static,
    ) -> Result<R, EngineError> {
        let job = Arc::new(job);
        self.ranks.run(
            |rank| job(rank),
            || {
                let job = Arc::clone(&job);
                Arc::new(move |rank| job(rank).map(drop))
            },
        )
    }

    /// Rank 0 of the model, for its config and counts. Steps go through [`Engine::extend`] and [`Engine::on_ranks`]:
    /// a forward on one rank alone would wait for the others.
    pub fn model(&self) -> &dyn Model {
        &*self.ranks.first().model
    }

    /// Where rank 0 and its cache live.
    pub fn device(&self) -> &Device {
        &self.ranks.first().device
    }

    /// Ranks that the model is split over.
    pub fn num_ranks(&self) -> usize {
        self.ranks.first().comm.size()
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

    /// How tokens are guessed, if they are.
    pub fn speculation(&self) -> Option<Speculation> {
        self.speculation
    }

    /// Number of token ids the model knows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The slots of the caches' state rings.
    pub(crate) fn slots(&self) -> &StateSlots {
        &self.slots
    }

    /// Whether the model keeps state per sequence, so that blocks of a cache are of use only together with it.
    pub fn keeps_state(&self) -> bool {
        self.slots.exist()
    }

    /// The block pool, for its counts and its integrity check.
    pub fn allocator(&self) -> &BlockAllocator {
        &self.allocator
    }
}

/// Ranks must be all members of one group, in order.
fn check_group(ranks: &[Rank]) -> Result<(), EngineError> {
    if ranks.is_empty() {
        return Err(EngineError::options("ranks", "at least 1", 0));
    }
    for (index, Rank { comm, .. }) in ranks.iter().enumerate() {
        if (comm.rank(), comm.size()) != (index, ranks.len()) {
            let expected = format!("rank {index} of {}", ranks.len());
            let found = format!("rank {} of {}", comm.rank(), comm.size());
            return Err(EngineError::options("ranks", expected, found));
        }
    }
    Ok(())
}
