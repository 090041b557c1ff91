//! Drives a model over a paged cache the way an engine would, with everything that can go wrong turned on: physical
//! blocks in random order, the unused part of the pool full of NaN.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use checkpoint::Checkpoint;
use comm::{Communicator, Solo};
use kernels::ops::PagedBatch;
use kernels::{DType, Device, Tensor};
use models::{Batch, KvCache, Model, StepContext};
use testkit::{Fixture, Random};

/// Logit tolerance for a prompt of `n` tokens; the fixtures' README explains it.
pub(crate) fn tolerance(n: usize) -> f32 {
    match n {
        0..=7 => 1e-4,
        8..=33 => 3e-4,
        _ => 1e-3,
    }
}

/// One rank of a model.
pub(crate) fn load_rank(
    checkpoint: &Checkpoint,
    comm: Arc<dyn Communicator>,
) -> models::Result<Box<dyn Model>> {
    models::load(checkpoint, &Device::Cpu, comm, &mut |_| {})
}

/// The model of a fixture.
pub(crate) fn load(fixture: &Fixture) -> Box<dyn Model> {
    load_rank(&fixture.checkpoint(), Arc::new(Solo)).unwrap_or_else(|e| panic!("{}: {e}", fixture.name()))
}

/// One sequence: how many of its tokens are cached, and in which blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    pub(crate) cached: usize,
    pub(crate) blocks: Vec<u32>,
    /// Its slot of the state rings, from its first step on.
    pub(crate) slot: Option<u32>,
}

impl Sequence {
    pub(crate) fn new(tokens: &[u32]) -> Self {
        Self { tokens: tokens.to_vec(), ..Self::default() }
    }
}

/// A pool of blocks in random order, and the caches that they index.
pub(crate) struct Pool {
    pub(crate) kv: KvCache,
    pub(crate) mtp_kv: Option<KvCache>,
    free: Vec<u32>,
    slots: Vec<u32>,
}

/// Slots of a pool: more than any test has sequences.
const SLOTS: usize = 24;

impl Pool {
    /// `num_blocks` blocks, all NaN, handed out in an order that `seed` decides.
    pub(crate) fn new(
        model: &dyn Model,
        dtype: DType,
        num_blocks: usize,
        block_size: usize,
        seed: u64,
    ) -> Self {
        // Whole rows, where a row stands for several tokens; the pool then has the same tokens or more.
        let block_size = block_size.next_multiple_of(model.kv_layout().block_tokens());
        let cache = |layout| KvCache::poisoned(&Device::Cpu, layout, num_blocks, block_size, dtype).unwrap();
        Self {
            kv: cache(model.kv_layout()).with_state_slots(SLOTS, 0).unwrap(),
            mtp_kv: model.mtp().map(|mtp| cache(mtp.kv_layout()).with_state_slots(SLOTS, 0).unwrap()),
            free: Random::new(seed).permutation(num_blocks),
            slots: Random::new(seed + 1).permutation(SLOTS),
        }
    }

    /// Enough blocks for `tokens`, and as many again that stay NaN.
    pub(crate) fn for_tokens(model: &dyn Model, tokens: usize, block_size: usize) -> Self {
        Self::new(model, DType::F32, 2 * tokens.div_ceil(block_size) + 3, block_size, tokens as u64)
    }

    /// The batch that advances each sequence by the given number of its tokens.
    pub(crate) fn batch(&mut self, work: &mut [(&mut Sequence, usize)]) -> Batch {
        let block_size = self.kv.block_size();
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for (sequence, new) in work.iter_mut() {
            let range = sequence.cached..sequence.cached + *new;
            while sequence.blocks.len() * block_size < range.end {
                sequence.blocks.push(self.free.pop().expect("a free block"));
            }
            ids.extend_from_slice(&sequence.tokens[range.clone()]);
            positions.extend(range.map(|p| p as u32));
        }
        let slots: Vec<u32> = work
            .iter_mut()
            .map(|(sequence, _)| *sequence.slot.get_or_insert_with(|| self.slots.pop().expect("a free slot")))
            .collect();
        let paging: Vec<_> =
            work.iter().map(|(s, new)| (*new, s.cached + new, s.blocks.as_slice())).collect();
        let paged = PagedBatch::new(&Device::Cpu, block_size, &paging).unwrap();
        let paged = paged.with_state_slots(&slots).unwrap();
        Batch::new(&ids, &positions, paged).unwrap()
    }

    /// One step; the hidden states `[T, D]` of all its tokens.
    pub(crate) fn step(
        &mut self,
        model: &dyn Model,
        ctx: &mut StepContext<'_>,
        work: &mut [(&mut Sequence, usize)],
    ) -> Tensor {
        let batch = self.batch(work);
        let hidden = model.forward(ctx, &batch, &mut self.kv).unwrap();
        work.iter_mut().for_each(|(sequence, new)| sequence.cached += *new);
        hidden
    }

    /// Prefills `tokens` in chunks of at most `chunk`; the logits `[n * V]` at every position.
    pub(crate) fn prefill(&mut self, model: &dyn Model, sequence: &mut Sequence, chunk: usize) -> Vec<f32> {
        let mut ctx = StepContext::new(&Device::Cpu);
        let mut logits = Vec::new();
        while sequence.cached < sequence.tokens.len() {
            let new = chunk.min(sequence.tokens.len() - sequence.cached);
            let hidden = self.step(model, &mut ctx, &mut [(sequence, new)]);
            logits.extend(model.logits(&hidden).unwrap().to_vec_f32());
        }
        logits
    }
}

/// Logits of a whole prompt in one step.
pub(crate) fn prompt_logits(model: &dyn Model, tokens: &[u32]) -> Vec<f32> {
    Pool::for_tokens(model, tokens.len(), 16).prefill(model, &mut Sequence::new(tokens), tokens.len())
}

/// Index of the largest logit.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("logits").0 as u32
}
