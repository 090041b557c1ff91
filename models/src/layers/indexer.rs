//! [`Indexer`]: the lightning indexer, which scores every visible key with a few cheap heads and keeps the best
//! (DeepSeek-V3.2 report, section 2.1; upstream: `transformers/models/deepseek_v32`).
//!
//! `I[t, s] = sum_h w[t, h] * relu(q[t, h] . k[s])`. The release rotates query and key by a Hadamard matrix and rounds both
//! to FP8, which changes no score but by that rounding: [`IndexFormat`] chooses.
//!
//! Under tensor parallelism every rank has the whole indexer: the selection has the same bits everywhere.

use std::sync::Arc;

use kernels::{RopeLayout, Tensor, ops};

use crate::layers::{LayerNorm, Linear, RopeFrequencies};
use crate::{Batch, IndexFormat, Result, StepContext};

/// The sizes of an indexer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexShape {
    /// `index_n_heads`.
    pub num_heads: usize,
    /// `index_head_dim`, of every query head and of the one key.
    pub head_dim: usize,
    /// `index_topk`: keys that a token attends to, at most.
    pub topk: usize,
}

/// Selects keys for one layer.
#[derive(Debug)]
pub struct Indexer {
    /// Index of the layer, for the probe.
    pub layer_idx: usize,
    /// `wq_b` `[H_I * head_dim, q_lora_rank]`, over the latent of the attention's query.
    pub query: Linear,
    /// `wk` `[head_dim, D]`: one key for all heads.
    pub key: Linear,
    /// `k_norm` `[head_dim]`.
    pub key_norm: LayerNorm,
    /// `weights_proj` `[H_I, D]`: how much each head counts for a token.
    pub weights: Linear,
    /// Head sizes.
    pub shape: IndexShape,
    /// Frequencies over the rope channels, which come first in a head; halves are paired, unlike in the attention.
    pub rope: Arc<RopeFrequencies>,
    /// What is compared.
    pub format: IndexFormat,
}

impl Indexer {
    /// Writes the step's index keys into `keys` and selects, from `x` `[T, D]` and the query's latent
    /// `[T, q_lora_rank]`, the positions `[T, topk]` that each token attends to (as [`ops::index_topk`] lists them).
    ///
    /// `None` where no sequence of the step can have more than `topk` keys: every token attends to all it sees. That
    /// follows from shapes alone, so that a recorded step always decides alike.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        [x, query_latent]: [&Tensor; 2],
        keys: &mut Tensor,
    ) -> Result<Option<Tensor>> {
        let IndexShape { num_heads, head_dim, topk } = self.shape;
        let table = ctx.rope_table(&self.rope, batch)?;
        let LayerNorm { weight, bias, eps } = &self.key_norm;
        let key = self.key.forward(x)?;
        ops::index_key_write(keys, &key, (weight, bias, *eps), &table, &batch.paged.slot_mapping)?;
        let selected = if batch.paged.max_keys() > topk {
            let q = self.query.forward(query_latent)?;
            let mut q = q.reshape(&[x.dim(0), num_heads, head_dim])?;
            ops::rope_assign(&mut q, 0, &table, RopeLayout::HalfSplit)?;
            let mut weights = self.weights.forward(x)?;
            self.format.round(&mut q, &mut weights)?;
            let scale = ((num_heads * head_dim) as f64).powf(-0.5) as f32;
            Some(ops::index_topk(&q, &weights, keys, &batch.paged, topk, scale)?)
        } else {
            None
        };
        ctx.probe_selection(self.layer_idx, batch, selected.as_ref());
        Ok(selected)
    }
}
