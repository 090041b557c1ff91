//! [`Runner`]: runs prompts through the engine's own step path and keeps everything that a golden file can ask about.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{Engine, Request, SamplingParams, Step};
use kernels::ops::{PagedBatch, Routing};
use kernels::{DType, Tensor};
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

    /// Rows `range` as a tensor.
    fn slice(&self, engine: &Engine, range: std::ops::Range<usize>) -> Result<Tensor, Error> {
        let values = &self.values[range.start * self.width..range.end * self.width];
        Ok(Tensor::from_f32(engine.device(), &[range.len(), self.width], values)?)
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
            let hidden = engine.extend(&mut ctx, &mut sequence, tokens)?;
            logits.append(&engine.model().logits(&hidden)?);
        }
        Ok(Observed { logits, ..observed })
    }

    /// Draft logits `[n - 1, V]`: row `t` mixes row `t` of `hidden` with the embedding of token `t + 1`. `None` if
    /// the checkpoint has no MTP layer.
    pub(crate) fn mtp(&self, ids: &[u32], hidden: &Rows) -> Result<Option<Rows>, Error> {
        let engine = &self.engine;
        let Some(mtp) = engine.model().mtp() else {
            return Ok(None);
        };
        let next = &ids[1..];
        let blocks: Vec<u32> = (0..next.len().div_ceil(BLOCK_SIZE).max(1) as u32).collect();
        let mut kv =
            KvCache::poisoned(engine.device(), mtp.kv_layout(), blocks.len(), BLOCK_SIZE, DType::F32)?;
        let mut ctx = StepContext::new(engine.device());
        let (mut logits, mut start) = (Rows::default(), 0);
        for tokens in self.steps(next) {
            let end = start + tokens.len();
            let paged = PagedBatch::new(engine.device(), BLOCK_SIZE, &[(tokens.len(), end, &blocks)])?;
            let positions: Vec<u32> = (start as u32..end as u32).collect();
            let batch = Batch::new(tokens, &positions, paged)?;
            let drafted = mtp.forward(&mut ctx, 0, &batch, &hidden.slice(engine, start..end)?, &mut kv)?;
            logits.append(&engine.model().logits(&drafted)?);
            start = end;
        }
        Ok(Some(logits))
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
        let mut last = Rows::default();
        for chunk in self.steps(prompt) {
            last = Rows::default();
            last.append(&engine.extend(&mut ctx, &mut sequence, chunk)?);
        }
        let rows = last.values.len() / last.width.max(1);
        logits.append(&engine.model().logits(&last.slice(engine, rows - 1..rows)?)?);
        for token in &tokens[..tokens.len() - 1] {
            let hidden = engine.extend(&mut ctx, &mut sequence, &[*token])?;
            logits.append(&engine.model().logits(&hidden)?);
        }
        Ok(logits)
    }
}
