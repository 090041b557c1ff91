//! [`Runner`]: runs prompts through the engine's own step path and keeps everything that a golden file can ask about.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use engine::{Engine, EngineError, LogitRows, RankView, Request, SamplingParams, Step};
use kernels::ops::{PagedBatch, Routing};
use kernels::{DType, Device, KernelError, Tensor};
use models::{Batch, KvCache, Probe, StepContext};

use crate::Error;

/// Rows per KV block in verify; small, so that even short prompts cross blocks.
const BLOCK_SIZE: usize = 16;

/// An engine under test and the size of its prefill steps.
pub(crate) struct Runner {
    pub(crate) engine: Arc<Engine>,
    /// Tokens per step; `None` runs a prompt whole.
    pub(crate) chunk: Option<usize>,
}

/// A growing matrix `[rows, width]`.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rows {
    pub(crate) width: usize,
    pub(crate) values: Vec<f32>,
}

/// What a prompt made the model say, token by token.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) logits: Rows,
    pub(crate) hidden: BTreeMap<String, Rows>,
    pub(crate) routers: BTreeMap<usize, Router>,
    /// Per layer with an indexer, the keys that each token attends to.
    pub(crate) selections: BTreeMap<usize, Vec<Vec<u32>>>,
}

/// One layer's routing: logits `[n, E]`, and per token the chosen experts ascending with their weights.
#[derive(Debug, Default)]
pub(crate) struct Router {
    pub(crate) logits: Rows,
    pub(crate) top_k: usize,
    pub(crate) indices: Vec<i64>,
    pub(crate) weights: Vec<f32>,
}

impl Rows {
    fn append(&mut self, tensor: &Tensor) {
        self.width = tensor.dim(1);
        self.values.extend(tensor.to_vec_f32());
    }

    fn extend<'t>(&mut self, tensors: impl IntoIterator<Item = &'t Tensor>) {
        tensors.into_iter().for_each(|tensor| self.append(tensor));
    }

    /// Rows `range` as a tensor.
    fn slice(&self, device: &Device, range: Range<usize>) -> Result<Tensor, KernelError> {
        let values = &self.values[range.start * self.width..range.end * self.width];
        Tensor::from_f32(device, &[range.len(), self.width], values)
    }
}

impl Probe for Observed {
    fn hidden(&mut self, name: &str, hidden: &Tensor) {
        self.hidden.entry(name.to_owned()).or_default().append(hidden);
    }

    fn router(&mut self, layer: usize, logits: &Tensor, routing: &Routing) {
        let router = self.routers.entry(layer).or_default();
        router.logits.append(logits);
        router.top_k = routing.experts.dim(1);
        let weights = routing.weights.to_vec_f32();
        // Expert ids are small integers, so the widening to f32 loses nothing.
        let experts = routing.experts.to_vec_f32();
        for (experts, weights) in experts.chunks(router.top_k).zip(weights.chunks(router.top_k)) {
            let mut chosen: Vec<(i64, f32)> =
                experts.iter().map(|&e| e as i64).zip(weights.iter().copied()).collect();
            chosen.sort_by_key(|c| c.0);
            router.indices.extend(chosen.iter().map(|c| c.0));
            router.weights.extend(chosen.iter().map(|c| c.1));
        }
    }

    fn selection(&mut self, layer: usize, positions: &Tensor, selected: Option<&Tensor>) {
        // Positions are small integers too.
        let positions = positions.to_vec_f32().into_iter().map(|position| position as u32);
        let tokens = self.selections.entry(layer).or_default();
        let Some(selected) = selected else {
            tokens.extend(positions.map(|position| (0..=position).collect()));
            return;
        };
        let unused = u32::MAX as f32;
        let lists = selected.to_vec_f32();
        let used = |list: &[f32]| list.iter().filter(|&&key| key != unused).map(|&key| key as u32).collect();
        tokens.extend(lists.chunks(selected.dim(1)).map(used));
    }
}

impl Runner {
    fn steps<'t>(&self, ids: &'t [u32]) -> impl Iterator<Item = &'t [u32]> {
        ids.chunks(self.chunk.unwrap_or(ids.len()).max(1))
    }

    /// Runs a prompt over an empty cache.
    pub(crate) fn prompt(&self, ids: &[u32]) -> Result<Observed, Error> {
        let engine = &self.engine;
        let mut sequence = engine.sequence();
        let mut observed = Observed::default();
        let mut logits = Rows::default();
        for tokens in self.steps(ids) {
            let mut ctx = StepContext::with_probe(engine.device(), &mut observed);
            let step = engine.extend(&mut ctx, &mut sequence, tokens, LogitRows::All)?;
            logits.extend(step.logits.as_ref());
        }
        Ok(Observed { logits, ..observed })
    }

    /// Draft logits `[n - 1, V]`: row `t` mixes row `t` of `hidden` with the embedding of token `t + 1`. `None` if
    /// the checkpoint has no MTP layer.
    pub(crate) fn mtp(&self, ids: &[u32], hidden: &Rows) -> Result<Option<Rows>, Error> {
        if self.engine.model().mtp().is_none() {
            return Ok(None);
        }
        let (next, hidden) = (ids[1..].to_vec(), hidden.clone());
        let chunk = self.chunk.unwrap_or(next.len()).max(1);
        Ok(Some(self.engine.on_ranks(move |rank| draft(rank, &next, &hidden, chunk))?))
    }

    /// `count` greedy tokens after `prompt`, as any user's request would get them; no token ends it.
    pub(crate) fn greedy_tokens(&self, prompt: &[u32], count: usize) -> Result<Vec<u32>, Error> {
        let request = Request {
            sampling: SamplingParams::greedy(),
            max_tokens: Some(count),
            ..Request::new(prompt.to_vec())
        };
        let mut tokens = Vec::with_capacity(count);
        for step in self.engine.generate(request)? {
            if let Step::Token(sampled) = step? {
                tokens.push(sampled.token);
            }
        }
        Ok(tokens)
    }

    /// Logits `[count, V]` after `prompt`, and after each of the first `count - 1` of `tokens` fed one at a time.
    pub(crate) fn incremental_logits(&self, prompt: &[u32], tokens: &[u32]) -> Result<Rows, Error> {
        let engine = &self.engine;
        let mut sequence = engine.sequence();
        let mut ctx = StepContext::new(engine.device());
        let mut logits = Rows::default();
        let mut last = None;
        for chunk in self.steps(prompt) {
            last = engine.extend(&mut ctx, &mut sequence, chunk, LogitRows::Last)?.logits;
        }
        logits.extend(last.as_ref());
        for token in &tokens[..tokens.len() - 1] {
            let step = engine.extend(&mut ctx, &mut sequence, &[*token], LogitRows::Last)?;
            logits.extend(step.logits.as_ref());
        }
        Ok(logits)
    }
}

/// One rank's part of [`Runner::mtp`]: the tokens `next` in steps of `chunk`, over a cache of their own.
fn draft(rank: &mut RankView<'_>, next: &[u32], hidden: &Rows, chunk: usize) -> Result<Rows, EngineError> {
    let RankView { model, device, .. } = rank;
    let Some(mtp) = model.mtp() else {
        return Ok(Rows::default());
    };
    let blocks: Vec<u32> = (0..next.len().div_ceil(BLOCK_SIZE).max(1) as u32).collect();
    let kv = KvCache::poisoned(device, mtp.kv_layout(), blocks.len(), BLOCK_SIZE, DType::F32)?;
    let mut kv = kv.with_state_slots(1, 0)?;
    let mut ctx = StepContext::new(device);
    let (mut logits, mut start) = (Rows::default(), 0);
    for tokens in next.chunks(chunk) {
        let end = start + tokens.len();
        let paged = PagedBatch::new(device, BLOCK_SIZE, &[(tokens.len(), end, &blocks)])?;
        let paged = paged.with_state_slots(&[0])?;
        let positions: Vec<u32> = (start as u32..end as u32).collect();
        let batch = Batch::new(tokens, &positions, paged)?;
        let drafted = mtp.forward(&mut ctx, 0, &batch, &hidden.slice(device, start..end)?, &mut kv)?;
        logits.append(&mtp.logits(0, &drafted)?);
        start = end;
    }
    Ok(logits)
}
